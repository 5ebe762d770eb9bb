"""--mode=train: trains from step 0 or from the newest checkpoint, then writes the report."""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
from flax import nnx

from sequencematch.cli import dry_run, figures, results, resume, workdir
from sequencematch.cli.choice import best_checkpoint
from sequencematch.cli.cluster import check_agreement, check_shared
from sequencematch.cli.frozen import keep_frozen
from sequencematch.cli.job import Call, Job
from sequencematch.cli.starting_point import StartingPoint, find_starting_point
from sequencematch.data.facts import describe
from sequencematch.setup import memory
from sequencematch.setup.build import Parts, make_plan, training_data
from sequencematch.setup.effects import describe_effects
from sequencematch.setup.examples import save_task
from sequencematch.setup.judges import make_generator
from sequencematch.setup.remedy import ANY
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.checkpoint_folder import set_aside
from sequencematch.storage.console import to_stderr, to_stdout
from sequencematch.storage.metrics_log import MetricsLog
from sequencematch.storage.processes import is_first, wait_for_all
from sequencematch.storage.provenance import hardware
from sequencematch.storage.wandb_board import WandbBoard
from sequencematch.train import loop
from sequencematch.train.mesh import describe_idle
from sequencematch.train.plan import Plan
from sequencematch.train.profiling import Profiler, Traced, describe_past, describe_peak
from sequencematch.train.state import TrainState


def prepare_training(parts: Parts, call: Call, has_run: bool, traced: Traced) -> Job:
    """Opens the work directory; the job trains to the end of the plan and evaluates the result.

    Args:
      parts: the parts of the run.
      call: what the command line asked for.
      has_run: whether the work directory holds a run to resume.
      traced: what is looked at closely.

    Raises:
      ValueError, OSError: the run cannot be resumed, or the folder cannot be written.
    """
    check_agreement(call.folder, has_run, parts.data.checksum)
    data = training_data(parts)
    # What cannot be read is refused before the folder exists.
    if has_run and resume.has_checkpoint(call.folder):
        parts, trained = resume.fill_frozen(parts, call.folder), None
    else:
        parts, trained = resume.first_arrays(parts)
    start = open_run(parts, call, has_run)
    for sentence in describe_past(traced, 0 if start.state is None else int(start.state.step)):
        to_stderr(sentence)
    profiler = Profiler(call.folder / "profile", traced)
    return Job(lambda: train(parts, call, data, start, trained, profiler), "continue with --resume")


def open_run(parts: Parts, call: Call, has_run: bool) -> StartingPoint:
    """Locks the work directory, and writes config.json and what it keeps of the task."""
    folder, resources = call.folder, call.resources
    wait_for_all("checked")  # nothing is written before all processes have made their checks
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        resources.enter_context(workdir.lock(folder))
        # Again: before the lock was taken another run could have written into the folder.
        has_run = workdir.check_free(folder, parts.config, resume=has_run)
    wait_for_all("locked")
    check_shared(folder)
    start = find_starting_point(parts, folder, call.name, has_run)
    wait_for_all("read")
    if is_first():
        workdir.write_json(folder / workdir.CONFIG, start.facts)
        # After config.json, which marks a run: a resumed run writes what a kill has left out.
        save_task(parts.config, parts.task, parts.tokenizer, parts.data, folder)
        # Only now, not when they were found: --dry_run and --mode=evaluate leave damaged ones in place.
        for step in start.damaged_steps:
            to_stdout(f"damaged checkpoint {step} was moved to {set_aside(folder, step)}/")
    wait_for_all("tidied")
    return start


def train(
    parts: Parts,
    call: Call,
    data: tuple,
    start: StartingPoint,
    trained: nnx.State | None,
    profiler: Profiler,
) -> None:
    """Trains to the end of the plan, evaluates the test set and writes the results.

    Args:
      parts, call: the run.
      data: batches of episodes and of prompts.
      start: where to begin.
      trained: what is trained, at step 0; None where a checkpoint has it, or all is to be drawn.
      profiler: traces what is asked for.
    """
    folder, keep, plan = call.folder, parts.config.checkpoint, make_plan(parts)
    announce(parts, folder, 0 if start.state is None else int(start.state.step))
    to_stdout(describe_peak(plan.phases[-1].flops, parts.mesh.devices.flat[0].device_kind))
    if start.state is None:
        keep_frozen(parts, folder)
    # If all are trained, new ones are drawn only now: the run has said what it does meanwhile.
    state = start.state or (parts.initial() if trained is None else parts.begin(trained))
    generator = make_generator(parts)
    raise_if_asked = call.stop_requests.raise_if_asked
    # Other processes than the first keep no records: theirs are thrown away.
    own = folder if is_first() else Path(call.resources.enter_context(TemporaryDirectory()))
    best = best_checkpoint(parts, folder, start.records) if keep.best else None
    best_step = best[0] if best else None
    with Checkpoints(folder, keep.keep, keep.keep_every, best_step) as checkpoints:
        checkpoints.tidy()
        with MetricsLog(own, start.records, boards(parts, folder, start.records)) as log:
            recorder = loop.Recorder(
                plan,
                checkpoints,
                log,
                call.stop_requests,
                partial(figures.validation_figures, parts, generator, raise_if_asked),
                facts=start.facts,
                seconds=start.seconds,
                estimated_bytes=estimated_step(parts),
                best=best,
                keep_best=keep.best,
                spent=start.spent,
                profiler=profiler,
            )
            state, seconds = loop.train(plan, state, *data, recorder)
            speed = recorder.speed(plan.steps)  # what closing the log takes is no part of it
    facts = {key: start.facts[key] for key in resume.PROVENANCE} | count_tokens(plan, state)
    facts |= {"command": call.command, "seconds": {"train": seconds}, "speed": speed}
    results.evaluate_and_report(parts, folder, state, facts, raise_if_asked, generator)


def boards(parts: Parts, folder: Path, records: Sequence[dict]) -> list[WandbBoard]:
    """What shows the records beside TensorBoard; of several processes the first sends them."""
    project = parts.config.wandb
    if not project or not is_first():
        return []
    return [WandbBoard(folder, project, workdir.to_json(parts.config), records)]


def count_tokens(plan: Plan, state: TrainState) -> dict[str, int]:
    """Tokens that were trained on and sampled up to a state, for the summary."""
    tokens, sampled = plan.tokens(int(state.step))
    return {"tokens": tokens, "sampled_tokens": sampled}


def prepare_dry_run(parts: Parts, call: Call, has_run: bool) -> Job:
    """Makes all checks of `prepare_training` and writes nothing; the job prints the plan.

    Args and Raises: as of `prepare_training`.
    """
    folder = call.folder
    if (folder / workdir.LOCK).is_file():  # locking would create the file, and nothing may change
        call.resources.enter_context(workdir.lock(folder))
    if has_run and resume.has_checkpoint(folder):
        parts = resume.fill_frozen(parts, folder)
    state = find_starting_point(parts, folder, call.name, has_run).state
    if state is None:
        resume.check_initial_parameters(parts)
    plan, first = make_plan(parts), 0 if state is None else int(state.step)
    free = workdir.FREE_TO_RESUME if has_run else ANY
    with contextlib.suppress(memory.DoesNotFit):
        check_memory(parts, free)
        # Not of a run that has no room: tracing makes a batch.
        dry_run.trace(parts, plan, *training_data(parts))

    def show() -> None:
        dry_run.print_plan(parts, plan, folder, first)
        check_memory(parts, free)
        dry_run.print_verdict()

    return Job(show)


def check_memory(parts: Parts, free: tuple[str, ...]) -> None:
    """Raises DoesNotFit if a run is estimated to have no room, unless its network is the task's own.

    Args:
      parts: the run.
      free: keys, or prefixes of keys, that may still be changed.
    """
    if not parts.task.network:
        vocab_size = parts.tokenizer.vocab_size
        estimate = memory.estimate_training(parts.config, vocab_size, parts.data.nbytes)
        memory.check(parts.config, estimate, free)


def estimated_step(parts: Parts) -> int:
    """Bytes that a training step is estimated to take on each device; 0 of a network unknown here."""
    if parts.task.network:
        return 0
    return memory.estimate_training(parts.config, parts.tokenizer.vocab_size).step


def announce(parts: Parts, folder: Path, step: int) -> None:
    """Prints what is about to be trained, and where."""
    frozen = jax.tree.leaves(parts.frozen)
    trained = f" ({dry_run.describe_trained(parts)})" if frozen else ""
    to_stdout(
        f"{parts.config.method} on {parts.task.name}: {parts.parameters:,} parameters{trained}, steps "
        f"{step} to "
        f"{parts.config.train.steps} on {hardware()}; writing to {folder}/"
    )
    if idle := describe_idle(parts.mesh):
        to_stdout(idle)
    if parts.task.network:
        to_stdout("the network is the task's own: config.model plays no part")
    for sentence in describe(parts.data.found):
        to_stdout(sentence)
    answers = parts.config.evaluate
    if answers.stop_at:
        to_stdout(
            f"Answers stop when {answers.stop_at} tokens survive (evaluate.stop_at), or after "
            f"{answers.max_actions} actions, edits included (evaluate.max_actions)."
        )
    for sentence in describe_effects(parts.config):
        to_stdout(sentence)
