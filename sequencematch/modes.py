"""What the command line can ask for: to train, to evaluate, to answer.

Each function checks and opens all it needs and returns the job, which then only works.
"""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sequencematch import dry_run, judge, workdir
from sequencematch.data import pipeline
from sequencematch.evaluate import accuracy
from sequencematch.evaluate.report import MARKS
from sequencematch.provenance import changes, hardware, provenance
from sequencematch.rollout import sampler, stream
from sequencematch.run import Run, make_generator, make_plan, training_data
from sequencematch.train import loop
from sequencematch.train.checkpoint import Checkpoints, Restored
from sequencematch.train.interrupt import Interruption
from sequencematch.train.log import MetricsLog, recorded

Job = Callable[[], None]


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
    folder, now = call.folder, provenance()
    plan, (episodes, prompts) = make_plan(run), training_data(run)
    folder.mkdir(parents=True, exist_ok=True)
    call.held.enter_context(workdir.locked(folder))
    begun = workdir.check_free(folder, run.config, resume=begun)  # now that nobody else can come
    restored = going_on(run, folder, now) if begun else None
    kept = recorded(folder, int(restored.state.step)) if restored else []
    record = {"name": call.name, "config": workdir.plain(run.config)} | now
    workdir.write_json(folder / workdir.CONFIG, record)

    def job() -> None:
        state = restored.state if restored else run.initial()
        announce(run, folder, int(state.step))
        keep = run.config.checkpoint
        with (
            Checkpoints(folder, keep.keep, keep.keep_every) as checkpoints,
            MetricsLog(folder, kept) as log,
        ):
            for step in restored.damaged if restored else ():
                print(f"checkpoint {step} is kept in {checkpoints.set_aside(step)}/")
            earlier = restored.facts["seconds"] if restored else 0.0
            traces = loop.Traces(checkpoints, log, call.interruption, record, earlier)
            judged = partial(judge.validated, run, make_generator(run))
            state, seconds = loop.train(plan, state, episodes, prompts, judged, traces)
        tokens, sampled = plan.tokens(plan.steps)
        facts = {"command": call.command, "tokens": tokens, "sampled_tokens": sampled}
        judge.publish(run, folder, call.name, state, facts | {"seconds": {"train": seconds}})

    return job


def going_on(run: Run, folder: Path, now: Mapping[str, Any]) -> Restored | None:
    """The newest sound state, with a word on what is not as it was; None if none was ever saved."""
    with Checkpoints(folder) as checkpoints:
        if checkpoints.empty():
            note(f"no checkpoint in {checkpoints.folder} yet: starting at step 0")
            return None
    restored = restore(run, folder)
    changed = changes(restored.facts, now)
    if changed:
        note(
            f"the run was saved by other code ({'; '.join(changed)}) and may not go on bit for bit"
        )
    return restored


def rehearsal(run: Run, folder: Path, begun: bool) -> Job:
    """Says what `training` would do, after all that it checks; leaves the folder as it is."""
    restored = going_on(run, folder, provenance()) if begun else None
    plan = make_plan(run)
    dry_run.trace(run, plan, *training_data(run))
    return partial(dry_run.show, run, plan, folder, int(restored.state.step) if restored else 0)


def evaluation(run: Run, call: Call) -> Job:
    """Judges the newest checkpoint again; what the run said of its training is kept."""
    state, facts, _ = restore(run, call.folder)
    call.held.enter_context(workdir.locked(call.folder))
    known = told(call.folder / "summary.json", facts["seconds"])
    return lambda: judge.publish(run, call.folder, facts["name"], state, known)


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
    return lambda: show(run, question, actions)


def restore(run: Run, folder: Path) -> Restored:
    """The newest sound state of the folder's run, with a word on newer ones."""
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(run.like)
    for said in restored.damaged.values():
        note(f"{said}: going back to that of step {int(restored.state.step)}")
    return restored


def note(line: str) -> None:
    """Says what a person should know, on stderr."""
    print(f"sequencematch: {line}", file=sys.stderr, flush=True)


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
