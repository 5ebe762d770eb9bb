"""--mode=sample: one answer, printed as it is written."""

import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sequencematch.cli import resume
from sequencematch.cli.job import Job
from sequencematch.data.episodes import encode_prompt
from sequencematch.evaluate.generate import deletion_flags, surviving_text
from sequencematch.evaluate.sections import MARKS
from sequencematch.rollout import decoding, stream
from sequencematch.setup.build import Parts
from sequencematch.storage.console import ignore_write_failures


def prepare_answer(run: Parts, folder: Path, question: str) -> Job:
    """Prints the greedy answer to one prompt as it is written, deletions struck through."""
    prompt, start = encode_prompt(run.tokenizer, question, run.config.prompt_slots)
    state = resume.restore(run, folder).state
    actions = stream.actions(
        run.recipe.graph,
        run.recipe.mdp,
        state.params,
        prompt,
        int(start),
        max_actions=run.config.evaluate.max_actions,
        choose=decoding.with_edit_bias(
            decoding.greedy, run.recipe.mdp, run.config.evaluate.edit_bias
        ),
    )

    def answer() -> None:
        with ignore_write_failures(sys.stdout):
            show(run, question, actions)

    return Job(answer)


def show(run: Parts, question: str, actions: Iterable[int]) -> None:
    """Writes an answer live in a terminal; elsewhere symbol by symbol."""
    console, taken = Console(highlight=False), []
    if not console.is_terminal:
        print(question, end=" ", flush=True)
        for action in actions:
            taken.append(action)
            print(*run.tokenizer.symbols([action]), sep="", end="", flush=True)
        print("\n" + run.tokenizer.decode(surviving_text(run.recipe.mdp, taken)))
        return
    with Live(console=console, auto_refresh=False) as live:
        for action in actions:
            taken.append(action)
            live.update(strike_deleted(run, question, taken), refresh=True)


def strike_deleted(run: Parts, question: str, actions: list[int]) -> Text:
    """The question, and the answer with each deleted token struck through and each edit marked."""
    decisions, text = run.recipe.mdp, Text(question + " ")
    gone = deletion_flags(decisions, actions)
    for action, symbol, flag in zip(actions, run.tokenizer.symbols(actions), gone, strict=True):
        if decisions.pops[action]:
            text.append(MARKS[symbol], style="dim")
        else:
            text.append(symbol, style="red strike" * flag)
    return text
