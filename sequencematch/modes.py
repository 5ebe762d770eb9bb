"""What the command line can ask for: to train, to evaluate, to answer.

Each function checks and opens all it needs and returns the job, which then only works.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sequencematch import dry_run, judge, workdir
from sequencematch.data import pipeline
from sequencematch.evaluate import accuracy
from sequencematch.evaluate.report import MARKS
from sequencematch.rollout import sampler, stream
from sequencematch.run import Run, make_generator, make_plan, training_data
from sequencematch.train import loop
from sequencematch.train.checkpoint import Checkpoints
from sequencematch.train.log import MetricsLog
from sequencematch.train.state import TrainState

Job = Callable[[], None]


def training(run: Run, folder: Path, name: str, command: str, resume: bool) -> Job:
    """Trains, or goes on from the newest checkpoint, then judges the result."""
    restored = restore(run, folder) if resume else None
    plan, (episodes, prompts) = make_plan(run), training_data(run)
    workdir.start(folder, name, run.config)

    def job() -> None:
        state, seconds = restored or (run.initial(), 0.0)
        announce(run, folder, int(state.step))
        generator = make_generator(run)
        with (
            Checkpoints(folder, run.config.checkpoint.keep) as checkpoints,
            MetricsLog(folder, int(state.step)) as log,
        ):
            state, seconds = loop.train(
                plan,
                state,
                episodes,
                prompts,
                lambda state: judge.validated(run, generator, state),
                checkpoints,
                log,
                seconds,
            )
        tokens, sampled = plan.tokens(plan.steps)
        facts = {"command": command, "tokens": tokens, "sampled_tokens": sampled}
        judge.publish(run, folder, name, state, facts | {"seconds": {"train": seconds}})

    return job


def rehearsal(run: Run, folder: Path, resume: bool) -> Job:
    """Says what `training` would do, after all that it checks; leaves the folder as it is."""
    first = int(restore(run, folder)[0].step) if resume else 0
    plan = make_plan(run)
    dry_run.trace(run, plan, *training_data(run))
    return partial(dry_run.show, run, plan, folder, first)


def evaluation(run: Run, folder: Path) -> Job:
    """Judges the newest checkpoint again; what the run said of its training is kept."""
    state, seconds = restore(run, folder)
    known = told(folder / "summary.json", seconds)
    return lambda: judge.publish(run, folder, workdir.read(folder)["name"], state, known)


def told(path: Path, seconds: float) -> dict[str, Any]:
    """What the run's summary says of its training; of one that was cut, how long it took.

    Raises:
      ValueError: the summary is damaged.
    """
    if not path.is_file():
        return {"seconds": {"train": seconds}}
    try:
        known = json.loads(path.read_text())
        return known | {"seconds": {"train": known["seconds"]["train"]}}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to evaluate the run") from error


def answering(run: Run, folder: Path, question: str) -> Job:
    """Prints the greedy answer to one prompt as it is written, deletions struck through."""
    prompt, start = pipeline.encode_prompt(run.tokenizer, question, run.config.prompt_slots)
    state, _ = restore(run, folder)
    actions = stream.actions(
        run.recipe.graph,
        run.recipe.mdp,
        state.params,
        prompt,
        int(start),
        max_actions=run.config.evaluate.max_actions,
        choose=sampler.biased(sampler.greedy, run.recipe.mdp, run.config.evaluate.edit_bias),
    )
    return lambda: show(run, question, actions)


def restore(run: Run, folder: Path) -> tuple[TrainState, float]:
    """The newest state of the folder's run, and the seconds that training took."""
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(run.like)


def announce(run: Run, folder: Path, step: int) -> None:
    """Says what is about to happen, and where its traces will be."""
    print(
        f"{run.config.method} on {run.task.name}: {run.parameters:,} parameters, steps {step} to "
        f"{run.config.train.steps} on {judge.hardware()}; everything goes to {folder}/",
        flush=True,
    )


def show(run: Run, question: str, actions) -> None:
    """Writes an answer live in a terminal; elsewhere symbol by symbol."""
    console, taken = Console(highlight=False), []
    if not console.is_terminal:
        print(question, end=" ", flush=True)
        for action in actions:
            taken.append(action)
            print(*run.tokenizer.symbols([action]), sep="", end="", flush=True)
        print("\n" + run.tokenizer.decode(accuracy.replay(run.recipe.mdp, taken)))
        return
    with Live(console=console, auto_refresh=False) as live:
        for action in actions:
            taken.append(action)
            live.update(struck(run, question, taken), refresh=True)


def struck(run: Run, question: str, actions: list[int]) -> Text:
    """The question, and the answer with each deleted token struck through and each edit marked."""
    decisions, text = run.recipe.mdp, Text(question + " ")
    gone = accuracy.deleted(decisions, actions)
    for action, symbol, flag in zip(actions, run.tokenizer.symbols(actions), gone, strict=True):
        if decisions.pops[action]:
            text.append(MARKS[symbol], style="dim")
        else:
            text.append(symbol, style="red strike" * flag)
    return text
