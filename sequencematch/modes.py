"""What the command line can ask for: to train, to evaluate, to answer.

Each function checks and opens all it needs and returns the job, which then only works.
"""

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sequencematch import dry_run, judge, resume, workdir
from sequencematch.data import pipeline
from sequencematch.evaluate import accuracy
from sequencematch.evaluate.report import MARKS
from sequencematch.files import tell, unread
from sequencematch.provenance import hardware
from sequencematch.resume import Beginning
from sequencematch.rollout import sampler, stream
from sequencematch.run import Run, make_generator, make_plan, training_data
from sequencematch.train import loop
from sequencematch.train.checkpoint import Checkpoints, set_aside
from sequencematch.train.interrupt import Interruption
from sequencematch.train.log import MetricsLog
from sequencematch.train.state import TrainState


class Job(NamedTuple):
    """Work that nothing stands in the way of.

    Attributes:
      do: does it.
      advice: what to do when it is cut short.
    """

    do: Callable[[], None]
    advice: str = "nothing is lost"


class Call(NamedTuple):
    """What was asked for.

    Attributes:
      folder: the work directory.
      name: of the configuration.
      command: as it was typed.
      interruption: listens for requests to leave.
      held: what is let go when the call is over.
    """

    folder: Path
    name: str
    command: str
    interruption: Interruption
    held: ExitStack


def training(run: Run, call: Call, begun: bool) -> Job:
    """Trains, or goes on from the newest sound checkpoint, then judges the result.

    Args:
      run: what to train.
      call: where, and what for.
      begun: whether the folder holds the beginning of this run.
    """
    plan, data = make_plan(run), training_data(run)
    beginning = opened(run, call, begun)
    return Job(lambda: train(run, call, plan, data, beginning), "go on with --resume")


def opened(run: Run, call: Call, begun: bool) -> Beginning:
    """Takes hold of the folder, and writes down what runs in it."""
    folder = call.folder
    folder.mkdir(parents=True, exist_ok=True)
    call.held.enter_context(workdir.locked(folder))
    begun = workdir.check_free(folder, run.config, resume=begun)  # now that nobody else can come
    beginning = resume.beginning(run, folder, call.name, begun)
    workdir.write_json(folder / workdir.CONFIG, beginning.record)
    return beginning


def train(run: Run, call: Call, plan: loop.Plan, data: tuple, beginning: Beginning) -> None:
    """Trains to the end of the plan, and publishes the verdict."""
    folder, keep = call.folder, run.config.checkpoint
    state = run.initial() if beginning.state is None else beginning.state
    announce(run, folder, int(state.step))
    for step in beginning.damaged:
        tell(f"checkpoint {step} is kept in {set_aside(folder, step)}/")
    with Checkpoints(folder, keep.keep, keep.keep_every) as checkpoints:
        checkpoints.tidy()
        with MetricsLog(folder, beginning.kept) as log:
            record, seconds = beginning.record, beginning.seconds
            traces = loop.Traces(checkpoints, log, call.interruption, record, seconds)
            judged = partial(judge.validated, run, make_generator(run))
            state, seconds = loop.train(plan, state, *data, judged, traces)
    facts = {key: record[key] for key in resume.MADE} | counted(plan, state)
    facts |= {"command": call.command, "seconds": {"train": seconds}}
    judge.publish(run, folder, state, facts, call.interruption.hear)


def counted(plan: loop.Plan, state: TrainState) -> dict[str, int]:
    """Tokens that a state took."""
    tokens, sampled = plan.tokens(int(state.step))
    return {"tokens": tokens, "sampled_tokens": sampled}


def rehearsal(run: Run, call: Call, begun: bool) -> Job:
    """Says what `training` would do, after all that it checks; leaves the folder as it is."""
    folder = call.folder
    if (folder / workdir.LOCK).is_file():
        call.held.enter_context(workdir.locked(folder))
    state = resume.beginning(run, folder, call.name, begun).state
    plan, first = make_plan(run), 0 if state is None else int(state.step)
    dry_run.trace(run, plan, *training_data(run))
    return Job(lambda: dry_run.show(run, plan, folder, first))


def evaluation(run: Run, call: Call) -> Job:
    """Judges the newest checkpoint again; what the run said of its training is kept."""
    folder = call.folder
    call.held.enter_context(workdir.locked(folder))
    state, facts, _ = resume.restore(run, folder)
    known = {key: facts[key] for key in resume.MADE} | counted(make_plan(run), state)
    known |= {"seconds": {"train": facts["seconds"]}}
    known |= resume.told(folder / "summary.json", int(state.step))
    return Job(lambda: judge.publish(run, folder, state, known, call.interruption.hear))


def answering(run: Run, folder: Path, question: str) -> Job:
    """Prints the greedy answer to one prompt as it is written, deletions struck through."""
    prompt, start = pipeline.encode_prompt(run.tokenizer, question, run.config.prompt_slots)
    state = resume.restore(run, folder).state
    actions = stream.actions(
        run.recipe.graph,
        run.recipe.mdp,
        state.params,
        prompt,
        int(start),
        max_actions=run.config.evaluate.max_actions,
        choose=sampler.biased(sampler.greedy, run.recipe.mdp, run.config.evaluate.edit_bias),
    )

    def answer() -> None:
        with unread(sys.stdout):
            show(run, question, actions)

    return Job(answer)


def announce(run: Run, folder: Path, step: int) -> None:
    """Says what is about to happen, and where its traces will be."""
    tell(
        f"{run.config.method} on {run.task.name}: {run.parameters:,} parameters, steps {step} to "
        f"{run.config.train.steps} on {hardware()}; everything goes to {folder}/"
    )


def show(run: Run, question: str, actions: Iterable[int]) -> None:
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
