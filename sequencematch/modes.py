"""What the command line can ask for: to train, to evaluate, to answer.

Each function checks and opens all it needs and returns the job, which then only works.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sequencematch import dry_run, judge, workdir
from sequencematch.config import differences
from sequencematch.data import pipeline
from sequencematch.evaluate import accuracy
from sequencematch.evaluate.report import MARKS
from sequencematch.files import say
from sequencematch.provenance import changes, hardware, provenance
from sequencematch.rollout import sampler, stream
from sequencematch.run import Run, make_generator, make_plan, training_data
from sequencematch.train import loop
from sequencematch.train.checkpoint import Checkpoints, Restored
from sequencematch.train.interrupt import Interruption
from sequencematch.train.log import MetricsLog, recorded
from sequencematch.train.state import TrainState

# What a checkpoint says of its making.
MADE = ("name", "data", "versions", "settings", "revision", "hardware", "earlier")


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


class Beginning(NamedTuple):
    """From where a run is trained.

    Attributes:
      state: restored; None for step 0.
      kept: records of its metrics.
      seconds: that it took.
      damaged: steps of newer checkpoints, to be set aside.
      record: what is written down of the run, here and in checkpoints.
    """

    state: TrainState | None
    kept: list[dict]
    seconds: float
    damaged: Sequence[int]
    record: dict[str, Any]


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
    restored = going_on(run, folder) if begun else None
    facts: Mapping[str, Any] = restored.facts if restored else {"seconds": 0.0, "records": 0}
    kept = recorded(folder, int(restored.state.step)) if restored else []
    if len(kept) < facts["records"]:
        say(f"metrics.jsonl has {len(kept)} of {facts['records']} records: the others are lost")
    record = {"name": call.name, "data": run.data, "config": workdir.plain(run.config)}
    done = restored is not None and int(restored.state.step) == run.config.train.steps
    record |= made(facts, done)
    workdir.write_json(folder / workdir.CONFIG, record)
    state, damaged = (restored.state, tuple(restored.damaged)) if restored else (None, ())
    return Beginning(state, kept, facts["seconds"], damaged, record)


def train(run: Run, call: Call, plan: loop.Plan, data: tuple, beginning: Beginning) -> None:
    """Trains to the end of the plan, and publishes the verdict."""
    folder, keep = call.folder, run.config.checkpoint
    state = run.initial() if beginning.state is None else beginning.state
    announce(run, folder, int(state.step))
    with Checkpoints(folder, keep.keep, keep.keep_every) as checkpoints:
        for step in beginning.damaged:
            print(f"checkpoint {step} is kept in {checkpoints.set_aside(step)}/")
        with MetricsLog(folder, beginning.kept) as log:
            record, seconds = beginning.record, beginning.seconds
            traces = loop.Traces(checkpoints, log, call.interruption, record, seconds)
            judged = partial(judge.validated, run, make_generator(run))
            state, seconds = loop.train(plan, state, *data, judged, traces)
    facts = {key: record[key] for key in MADE} | {"command": call.command} | counted(plan, state)
    judge.publish(run, folder, state, facts | {"seconds": {"train": seconds}})


def counted(plan: loop.Plan, state: TrainState) -> dict[str, int]:
    """Tokens that a state took."""
    tokens, sampled = plan.tokens(int(state.step))
    return {"tokens": tokens, "sampled_tokens": sampled}


def going_on(run: Run, folder: Path) -> Restored | None:
    """The newest sound state, with a word on what is not as it was; None if none was ever saved."""
    with Checkpoints(folder) as checkpoints:
        if checkpoints.empty():
            never_saved(run, folder)
            say(f"no checkpoint in {checkpoints.folder} yet: starting at step 0")
            return None
    restored = restore(run, folder)
    changed = changes(restored.facts, provenance())
    if changed:
        say(f"the run was saved elsewhere ({'; '.join(changed)}) and may not go on bit for bit")
    return restored


def never_saved(run: Run, folder: Path) -> None:
    """Raises ValueError if the run has saved: begun again, it would write over what is left of it."""
    reached = max((r["step"] for r in recorded(folder, run.config.train.steps)), default=0)
    other = differences(workdir.plain(run.config), workdir.read(folder)["config"])
    known = not any(key.startswith("checkpoint.every") for key in other)  # when it was to save
    # A save waits until the one before is on disk.
    late = known and reached > 2 * run.config.checkpoint.every
    if late or (folder / "summary.json").is_file():
        raise ValueError(
            f"the run in {folder} has saved checkpoints (it was at step {reached}), and they are gone: "
            "put them back, or start again in another --workdir"
        )


def made(facts: Mapping[str, Any], done: bool) -> dict[str, Any]:
    """What trains a run from here on, unless it is done, and what trained earlier parts."""
    now = provenance()
    if "versions" not in facts:
        return {**now, "earlier": []}
    before = {key: facts[key] for key in now}
    if done or before == now:
        return before | {"earlier": facts["earlier"]}
    return {**now, "earlier": [*facts["earlier"], before]}


def rehearsal(run: Run, call: Call, begun: bool) -> Job:
    """Says what `training` would do, after all that it checks; leaves the folder as it is."""
    folder = call.folder
    if (folder / workdir.LOCK).is_file():
        call.held.enter_context(workdir.locked(folder))
    restored = going_on(run, folder) if begun else None
    first = int(restored.state.step) if restored else 0
    plan = make_plan(run)
    dry_run.trace(run, plan, *training_data(run))
    return Job(lambda: dry_run.show(run, plan, folder, first))


def evaluation(run: Run, call: Call) -> Job:
    """Judges the newest checkpoint again; what the run said of its training is kept."""
    folder = call.folder
    call.held.enter_context(workdir.locked(folder))
    state, facts, _ = restore(run, folder)
    known = {key: facts[key] for key in MADE} | counted(make_plan(run), state)
    known |= {"seconds": {"train": facts["seconds"]}}
    known |= told(folder / "summary.json", int(state.step))
    return Job(lambda: judge.publish(run, folder, state, known))


def told(path: Path, step: int) -> dict[str, Any]:
    """What a run's summary says of its training to a step; nothing if there is none of it.

    Raises:
      ValueError: the summary is damaged.
    """
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text())
        trained = {"command": known["command"], "seconds": {"train": known["seconds"]["train"]}}
        return trained if known["steps"] == step else {}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to evaluate the run") from error


def answering(run: Run, folder: Path, question: str) -> Job:
    """Prints the greedy answer to one prompt as it is written, deletions struck through."""
    prompt, start = pipeline.encode_prompt(run.tokenizer, question, run.config.prompt_slots)
    state = restore(run, folder).state
    actions = stream.actions(
        run.recipe.graph,
        run.recipe.mdp,
        state.params,
        prompt,
        int(start),
        max_actions=run.config.evaluate.max_actions,
        choose=sampler.biased(sampler.greedy, run.recipe.mdp, run.config.evaluate.edit_bias),
    )
    return Job(lambda: show(run, question, actions))


def restore(run: Run, folder: Path) -> Restored:
    """The newest sound state of the folder's run, with a word on newer ones.

    Raises:
      ValueError: there is none, or the data have changed.
      OSError: it cannot be read.
    """
    known = workdir.read(folder)["data"]
    if known is not None:  # before other shapes make every checkpoint look damaged
        workdir.check_data(folder, known, run.data)
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(run.like)
    missing = {*MADE, "seconds", "records"} - restored.facts.keys()
    if missing:
        raise ValueError(
            f"the run in {folder} is of another version of sequencematch: its checkpoints say nothing "
            f"of {', '.join(sorted(missing))}"
        )
    workdir.check_data(folder, restored.facts["data"], run.data)
    for said in restored.damaged.values():
        say(f"{said}: going back to that of step {int(restored.state.step)}")
    return restored


def announce(run: Run, folder: Path, step: int) -> None:
    """Says what is about to happen, and where its traces will be."""
    print(
        f"{run.config.method} on {run.task.name}: {run.parameters:,} parameters, steps {step} to "
        f"{run.config.train.steps} on {hardware()}; everything goes to {folder}/",
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
