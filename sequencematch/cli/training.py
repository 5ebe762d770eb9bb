"""--mode=train: a run from its beginning, or from its newest checkpoint, to its report."""

from functools import partial
from pathlib import Path

from sequencematch.cli import dry_run, results, resume, workdir
from sequencematch.cli.job import Call, Job
from sequencematch.cli.resume import Beginning
from sequencematch.setup.build import Parts, make_generator, make_plan, training_data
from sequencematch.storage.checkpoint import Checkpoints, set_aside
from sequencematch.storage.console import to_stdout
from sequencematch.storage.metrics_log import MetricsLog
from sequencematch.storage.provenance import hardware
from sequencematch.train.loop import Recorder
from sequencematch.train.loop import train as run_plan
from sequencematch.train.plan import Plan
from sequencematch.train.state import TrainState


def prepare_training(run: Parts, call: Call, begun: bool) -> Job:
    """Trains, or goes on from the newest sound checkpoint, then judges the result.

    Args:
      run: what to train.
      call: where, and what for.
      begun: whether the folder holds the beginning of this run.
    """
    plan, data = make_plan(run), training_data(run)
    beginning = open_run(run, call, begun)
    return Job(lambda: train(run, call, plan, data, beginning), "go on with --resume")


def open_run(run: Parts, call: Call, begun: bool) -> Beginning:
    """Takes hold of the folder, and writes down what runs in it."""
    folder = call.folder
    folder.mkdir(parents=True, exist_ok=True)
    call.held.enter_context(workdir.lock(folder))
    begun = workdir.check_free(folder, run.config, resume=begun)  # now that nobody else can come
    beginning = resume.find_beginning(run, folder, call.name, begun)
    workdir.write_json(folder / workdir.CONFIG, beginning.record)
    return beginning


def train(run: Parts, call: Call, plan: Plan, data: tuple, beginning: Beginning) -> None:
    """Trains to the end of the plan, and publishes the verdict."""
    folder, keep = call.folder, run.config.checkpoint
    state = run.initial() if beginning.state is None else beginning.state
    announce(run, folder, int(state.step))
    for step in beginning.damaged:
        to_stdout(f"checkpoint {step} is kept in {set_aside(folder, step)}/")
    with Checkpoints(folder, keep.keep, keep.keep_every) as checkpoints:
        checkpoints.tidy()
        with MetricsLog(folder, beginning.kept) as log:
            recorder = Recorder(
                plan,
                checkpoints,
                log,
                call.stop_requests,
                partial(results.validation_figures, run, make_generator(run)),
                beginning.record,
                beginning.seconds,
            )
            state, seconds = run_plan(plan, state, *data, recorder)
    facts = {key: beginning.record[key] for key in resume.MADE} | count_tokens(plan, state)
    facts |= {"command": call.command, "seconds": {"train": seconds}}
    results.publish(run, folder, state, facts, call.stop_requests.raise_if_asked)


def count_tokens(plan: Plan, state: TrainState) -> dict[str, int]:
    """Tokens that a state took."""
    tokens, sampled = plan.tokens(int(state.step))
    return {"tokens": tokens, "sampled_tokens": sampled}


def prepare_dry_run(run: Parts, call: Call, begun: bool) -> Job:
    """Says what `training` would do, after all that it checks; leaves the folder as it is."""
    folder = call.folder
    if (folder / workdir.LOCK).is_file():
        call.held.enter_context(workdir.lock(folder))
    state = resume.find_beginning(run, folder, call.name, begun).state
    plan, first = make_plan(run), 0 if state is None else int(state.step)
    dry_run.trace(run, plan, *training_data(run))
    return Job(lambda: dry_run.show(run, plan, folder, first))


def announce(run: Parts, folder: Path, step: int) -> None:
    """Says what is about to happen, and where its traces will be."""
    to_stdout(
        f"{run.config.method} on {run.task.name}: {run.parameters:,} parameters, steps {step} to "
        f"{run.config.train.steps} on {hardware()}; everything goes to {folder}/"
    )
