"""The command line: parses it, checks and prepares everything, runs the job, returns the exit code."""

import os
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
from absl import flags, logging
from ml_collections import ConfigDict

from sequencematch.cli import (
    answers,
    cluster,
    evaluation,
    exporting,
    resume,
    sampling,
    scoring,
    training,
    workdir,
)
from sequencematch.cli.choice import NEWEST
from sequencematch.cli.flags import check_workdir_name, parse_flags
from sequencematch.cli.job import Call, Job
from sequencematch.cli.prompts import count_prompts
from sequencematch.data.tasks import check_harmless
from sequencematch.setup import memory
from sequencematch.setup.build import Parts, build
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults, resolve_dtype
from sequencematch.setup.examples import task_data
from sequencematch.setup.machine import is_out_of_memory
from sequencematch.setup.remedy import ANY
from sequencematch.storage import allocator
from sequencematch.storage.console import open_streams, to_stderr, to_stdout
from sequencematch.storage.files import expand
from sequencematch.storage.processes import CRASHED, DONE, INTERRUPTED, LOST, REFUSED, STOPPED
from sequencematch.storage.provenance import devices
from sequencematch.storage.wandb_board import check_installed
from sequencematch.train import distributed
from sequencematch.train.guard import Diverged
from sequencematch.train.mesh import make_mesh
from sequencematch.train.profiling import read_traced
from sequencematch.train.stop_requests import Interrupted, StopRequests

# Not a docstring, which `python -OO` drops.
HELP = """Train a SequenceMatch model, evaluate it again, or sample from it.

  python -m sequencematch.main --config=arithmetic[:METHOD] [--config.KEY=VALUE ...]
  python -m sequencematch.main --workdir=DIR --resume
  python -m sequencematch.main --workdir=DIR --mode=evaluate [--data=FILE.jsonl]
  python -m sequencematch.main --workdir=DIR --mode=sample --prompt=TEXT
  python -m sequencematch.main --workdir=DIR --mode=sample --num=N --samples=K --out=FILE.jsonl
  python -m sequencematch.main --mode=score --files=A.jsonl,B.jsonl --metrics=diversity,entropy
  python -m sequencematch.main --workdir=DIR --mode=export --out=NEW_DIR

Modes:
  --mode=train     Train, evaluate on the test set and write report.html (the default).
                   With --dry_run: check everything, print the plan and train nothing.
  --mode=evaluate  Evaluate the newest checkpoint of a run again. With --data=FILE, lines of
                   {"prompt": ..., "completion": ...}, evaluate it on these questions; the results
                   of these, and of another --checkpoint, go to evaluation-*.json in DIR.
  --mode=sample    Answer --prompt, the lines of --prompts=FILE, or --num=N test questions: greedily,
                   or --samples=K times at --temperature=T, or as --decode says. A single greedy one
                   is printed as it is generated; others are lines of JSON, printed or added to
                   --out=FILE.jsonl, where the same command goes on if it was interrupted.
  --mode=score     Measure --metrics=NAME,NAME of the texts in --files=A.jsonl,B.jsonl, of any system:
                   lines of {"text": ...}, with "prompt" and "references" where a metric needs them.
                   With --workdir=DIR of a run the figures are in its report too.
  --mode=export    Write a finetuned pretrained model as a directory that transformers reads.
  --profile=FIRST:END traces these steps of training into DIR/profile, --memory_profile=STEP the memory.
  --checkpoint=best or a STEP is used by evaluate, sample and export instead of the newest.

Hosts: each runs the same command, and the processes find each other by --cluster (docs/scaling.md).

Exit codes; all but 0 and 1 come with one line on stderr that says why:
  0   Done.
  1   A bug of this package, or of a task of your own: with a traceback, and no line.
  2   Refused: the command cannot be carried out as given. Nothing was changed.
  3   Stopped: the disk or memory is full, or steps were not finite. Checkpoints are intact.
  69  Stopped: another process of the run is gone. Checkpoints are intact; continue with --resume.
  75  Interrupted by Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or a notice of preemption, after
      saving. Continue with --resume.
"""


def main(argv: Sequence[str]) -> int:
    """Runs a command, or prints in one line why it cannot; returns the exit code."""
    logging.set_verbosity(logging.FATAL)  # errors that libraries log also reach us as exceptions
    job = None
    try:
        allocator.limit_arenas()  # before jax starts its threads
        with StopRequests() as stop_requests, ExitStack() as resources:
            job = prepare(argv, stop_requests, resources)
            stop_requests.raise_if_asked()
            job.run()
        return DONE
    except Interrupted as request:
        advice = job.advice if job else "nothing was started"
        return report(f"interrupted by {request}: {advice}", INTERRUPTED)
    except Diverged as error:
        return report(error, STOPPED)
    except (ValueError, OSError, flags.Error) as error:
        if distributed.is_lost_peer(error):
            distributed.tell_once(distributed.GONE, error)
            return LOST
        # A dry run shows its plan before it says that there is no room for it.
        if job is None or isinstance(error, memory.DoesNotFit):
            return report(error, REFUSED)
        if isinstance(error, OSError):
            return report(f"stopped: {error}; once that is fixed, {job.advice}", STOPPED)
        raise  # everything was checked, so a ValueError here is a bug: show where
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if is_out_of_memory(error):
            advice = f"once there is more, {job.advice}" if job else "nothing was started"
            return report(f"stopped: out of memory; {advice}", STOPPED)
        if not distributed.is_lost_peer(error):
            raise
        distributed.tell_once(distributed.GONE, error)
        return LOST


def report(reason: object, code: int) -> int:
    """Prints a reason on stderr; returns the exit code."""
    to_stderr(reason)
    return code


def prepare(argv: Sequence[str], stop_requests: StopRequests, resources: ExitStack) -> Job:
    """Checks everything and opens the data and the checkpoint; the returned job does the work.

    Args:
      argv: the command line, the program first.
      stop_requests: listens for requests to stop.
      resources: takes what must stay open while the job runs.

    Raises:
      ValueError, OSError, flags.Error: what is wrong, where, and how to fix it.
      Interrupted: a request to stop came meanwhile.
    """
    asked, config, name, is_named = parse_flags(argv)
    if asked.help:
        return Job(lambda: to_stdout(f"{HELP}\n{asked.get_help()}"))
    if asked.mode == "score":
        run = None if asked.workdir is None else check_workdir_name(asked.workdir)
        return scoring.prepare_scores(asked.files, asked.metrics, asked.reference, run)
    check_config(config)
    cluster.join(asked, config, stop_requests)
    folder = check_workdir_name(
        f"runs/{name}-{config.method}-{config.seed}" if asked.workdir is None else asked.workdir
    )
    source = None
    if asked.mode != "train" or asked.resume:
        workdir.take_settled(folder, config)
    resolve_dtype(config, devices()[0].platform)
    if asked.mode != "train":
        workdir.check_same(folder, config, free=workdir.FREE_TO_EVALUATE)
        source = resume.task_folder(config, folder)
        if source:
            workdir.check_own_questions(folder, config)
    # A work directory may come from somebody else, so its config.json must not run code.
    if not is_named and source is None:
        check_harmless(config.task, task_data(config), defaults().data)
    command = shlex.join(["python", "-m", "sequencematch.main", *argv[1:]])
    call = Call(folder, name, command, stop_requests, resources)
    if asked.mode != "train":
        return prepare_reading(asked, config, call, source)
    traced = read_traced(asked.profile, asked.memory_profile, config.train.steps)
    check_installed(config.wandb)
    has_run = workdir.check_free(folder, config, asked.resume)
    if asked.dry_run:
        return training.prepare_dry_run(build(config), call, has_run)
    free = workdir.FREE_TO_RESUME if has_run else ANY
    parts = build_within_memory(config, memory.estimate_training, free=free)
    return training.prepare_training(parts, call, has_run, traced)


def prepare_reading(
    asked: flags.FlagValues, config: ConfigDict, call: Call, source: Path | None
) -> Job:
    """Prepares a mode that trains nothing.

    Args:
      asked: the flags.
      config: the configuration.
      call: what the command line asked for.
      source: the run's folder, if it keeps its task.

    Raises:
      ValueError, OSError: as of `prepare`.
    """
    checkpoint = asked.checkpoint or NEWEST
    is_single = asked.prompt is not None and not any(
        (asked.samples, asked.temperature, asked.out, asked.decode)
    )
    if asked.mode == "sample":  # no more at once than there are
        prompts = 1 if asked.prompts is None else count_prompts(expand(asked.prompts))
        count = (asked.num or prompts) * (asked.samples or 1)
        config.evaluate.rows = min(config.evaluate.rows, count)
    answers_one = is_single or asked.mode == "export"  # an export holds no more than that
    estimate = memory.estimate_answering if answers_one else memory.estimate_evaluation
    parts = build_within_memory(config, estimate, source, workdir.FREE_TO_EVALUATE)
    parts = resume.fill_frozen(parts, call.folder)
    resume.report_loaded_data(config, call.folder)
    if asked.mode == "evaluate" and not asked.data and checkpoint == NEWEST:
        return evaluation.prepare_evaluation(parts, call)
    if asked.mode == "evaluate":
        return evaluation.prepare_evaluation_apart(parts, call, asked.data, checkpoint)
    if asked.mode == "export":
        check_alone("--mode=export")
        how = (asked.out, checkpoint, asked.adapter, asked.dtype)
        return exporting.prepare_export(parts, call.folder, *how)
    if is_single:
        check_alone("--prompt")
        return sampling.prepare_answer(parts, call.folder, asked.prompt, checkpoint)
    request = answers.Request(*(asked[name].value for name in answers.Request._fields))
    return answers.prepare_answers(parts, call, request, checkpoint)


def check_alone(what: str) -> None:
    """Raises ValueError for what several processes cannot do together."""
    if jax.process_count() > 1:
        raise ValueError(
            f"{what} is for a single process: start it once, with --cluster=none (and with "
            "JAX_PLATFORMS=cpu on a host of a TPU slice)"
        )


def build_within_memory(
    config: ConfigDict,
    estimate: Callable[..., memory.Estimate],
    source: Path | None = None,
    free: tuple[str, ...] = ANY,
) -> Parts:
    """Builds the parts of a run, after checking that its devices and memory are available.

    Args:
      config: the run's.
      estimate: says what memory it takes.
      source: the run's folder, if it keeps its task.
      free: keys, or prefixes of keys, that may still be changed.
    """
    make_mesh(**config.mesh)
    # Twice: before preparing data, which may take minutes, and once the vocabulary size is known. The
    # estimates are of a transformer; a task of one's own, package:function, may bring another network.
    if ":" not in config.task:
        memory.check(config, estimate(config), free)
    parts = build(config, source)
    if not parts.task.network:
        found = estimate(config, parts.tokenizer.vocab_size, parts.data.nbytes)
        memory.check(config, found, free)
    return parts


def report_unraisable(unraisable) -> None:
    """Prints exceptions that Python could not raise, except two kinds that are handled elsewhere.

    A request to stop is remembered and raised by the next check. What fails in a native thread reaches
    the main thread as an exception.
    """
    native = threading.current_thread() is not threading.main_thread()
    if not native and not isinstance(unraisable.exc_value, Interrupted):
        sys.__unraisablehook__(unraisable)


def run() -> None:
    """Runs the command line of this process and exits: the script `sequencematch`."""
    sys.unraisablehook = report_unraisable
    if not sys.flags.safe_path:  # as `python -m` does: a task of one's own lies in this folder
        sys.path.insert(0, "")
    open_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # any answer can be printed in any locale
    try:
        code = main(sys.argv)
    except Exception:  # a bug: in Python's own end jax would say that another process is at fault
        if not distributed.leave(CRASHED, waits=False):
            raise
        traceback.print_exc()
        os._exit(CRASHED)
    if distributed.leave(code, waits=code not in (STOPPED, LOST)) or code == INTERRUPTED:
        # Imports and native threads may have been cut short, and crash in Python's normal shutdown.
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
