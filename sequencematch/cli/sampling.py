"""--mode=sample: prints one answer as it is generated."""

import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sequencematch.cli import resume
from sequencematch.cli.job import Job
from sequencematch.cli.prompts import user_prompt
from sequencematch.core.keys import Purpose, random_key
from sequencematch.data.episodes import encode_prompt
from sequencematch.evaluate.generate import deletion_flags, surviving_text
from sequencematch.evaluate.trace_section import MARKS
from sequencematch.rollout import stream
from sequencematch.rollout.sampler import Sampling
from sequencematch.setup.build import Parts
from sequencematch.setup.examples import chats_of
from sequencematch.setup.judges import answer_actions, configured_decodings
from sequencematch.storage.console import ignore_write_failures


def prepare_answer(parts: Parts, folder: Path, question: str, checkpoint: str) -> Job:
    """Restores a checkpoint; the job prints its greedy answer as it is generated.

    Raises:
      ValueError, OSError: the run cannot be opened, or the prompt does not fit.
    """
    text = user_prompt(question, chats_of(parts.config, parts.tokenizer))
    prompt, start = encode_prompt(parts.tokenizer, text, parts.config.prompt_slots)
    state = resume.restore(parts, folder, checkpoint).state
    graph, params, mdp = parts.recipe.graph, parts.whole(state.params), answer_actions(parts)
    limits, decoding = parts.config.evaluate, configured_decodings(parts)["greedy"]
    how = Sampling(limits.max_actions, decoding, limits.stop_at)
    key = random_key(parts.config.seed, Purpose.ANSWERS)
    actions = stream.actions(graph, mdp, params, prompt, int(start), key, how)

    def answer() -> None:
        with ignore_write_failures(sys.stdout):
            print_answer(parts, question, actions)

    return Job(answer)


def print_answer(parts: Parts, question: str, actions: Iterable[int]) -> None:
    """Prints an answer: in a terminal with deletions struck through, elsewhere symbol by symbol."""
    console, taken = Console(highlight=False), []
    if not console.is_terminal:  # a pipe or a file cannot be rewritten: show edits as symbols
        print(question, end=" ", flush=True)
        for action in actions:
            taken.append(action)
            print(*parts.tokenizer.symbols([action]), sep="", end="", flush=True)
        print("\n" + parts.tokenizer.decode(surviving_text(parts.recipe.mdp, taken)))
        return
    with Live(console=console, auto_refresh=False) as live:
        for action in actions:
            taken.append(action)
            live.update(strike_deleted(parts, question, taken), refresh=True)


def strike_deleted(parts: Parts, question: str, actions: list[int]) -> Text:
    """The question and the answer, with deleted tokens struck through and edits marked."""
    mdp, text = parts.recipe.mdp, Text(question + " ")
    symbols, flags = parts.tokenizer.symbols(actions), deletion_flags(mdp, actions)
    for action, symbol, is_deleted in zip(actions, symbols, flags, strict=True):
        if mdp.pops[action]:
            text.append(MARKS[symbol], style="dim")
        else:
            text.append(symbol, style="red strike" * is_deleted)
    return text
