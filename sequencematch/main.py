"""Train a SequenceMatch model, evaluate it again, or sample from it.

  python -m sequencematch.main --config=arithmetic[:METHOD] [--config.KEY=VALUE ...]
  python -m sequencematch.main --workdir=DIR --resume
  python -m sequencematch.main --workdir=DIR --mode=evaluate
  python -m sequencematch.main --workdir=DIR --mode=sample --prompt=TEXT

Modes:
  --mode=train     Train, evaluate on the test set and write report.html (the default).
                   With --dry_run: check everything, print the plan and train nothing.
  --mode=evaluate  Evaluate the newest checkpoint of a run again.
  --mode=sample    Answer --prompt with the newest checkpoint, printed as it is generated.

Exit codes; all but 0 come with one line on stderr that says why:
  0   Done.
  2   Refused: the command cannot be carried out as given. Nothing was changed.
  3   Stopped: the disk or memory is full, or steps were not finite. Checkpoints are intact.
  75  Interrupted by Ctrl-C, SIGTERM or a notice of preemption, after saving. Continue with --resume.
"""

import os
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import jax
from absl import flags, logging
from ml_collections import ConfigDict

from sequencematch.cli import evaluation, sampling, training, workdir
from sequencematch.cli.flags import check_workdir_name, choose_config, parse_flags
from sequencematch.cli.job import Call, Job
from sequencematch.data.tasks import check_harmless
from sequencematch.setup import memory
from sequencematch.setup.build import Parts, build
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults, resolve_dtype
from sequencematch.setup.machine import is_out_of_memory
from sequencematch.storage import allocator
from sequencematch.storage.console import open_streams, to_stderr, to_stdout
from sequencematch.storage.provenance import devices
from sequencematch.train.guard import Diverged
from sequencematch.train.mesh import make_mesh
from sequencematch.train.stop_requests import Interrupted, StopRequests

DONE, REFUSED, STOPPED, INTERRUPTED = 0, 2, 3, 75


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
        # A dry run shows its plan before it says that there is no room for it.
        if job is None or isinstance(error, memory.DoesNotFit):
            return report(error, REFUSED)
        if isinstance(error, OSError):
            return report(f"stopped: {error}; once that is fixed, {job.advice}", STOPPED)
        raise  # everything was checked, so a ValueError here is a bug: show where
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        advice = job.advice if job else "nothing was started"
        return report(f"stopped: out of memory; {advice}", STOPPED)


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
    asked = parse_flags(argv)
    if asked.help:
        return Job(lambda: to_stdout(f"{__doc__}\n{asked.get_help()}"))
    config, name = choose_config(asked)
    check_config(config)
    resolve_dtype(config, devices()[0].platform)
    # A work directory may come from somebody else, so its config.json must not run code.
    if asked.config is None:
        check_harmless(config.task, config.data, defaults().data)
    folder = check_workdir_name(asked.workdir or f"runs/{name}-{config.method}-{config.seed}")
    command = shlex.join(["python", "-m", "sequencematch.main", *argv[1:]])
    call = Call(folder, name, command, stop_requests, resources)
    if asked.mode == "train":
        has_run = workdir.check_free(folder, config, asked.resume)
        if asked.dry_run:
            return training.prepare_dry_run(build(config), call, has_run)
        parts = build_within_memory(config, memory.estimate_training)
        return training.prepare_training(parts, call, has_run)
    workdir.check_same(folder, config, free=workdir.FREE_TO_EVALUATE)
    if asked.mode == "evaluate":
        parts = build_within_memory(config, memory.estimate_evaluation)
        return evaluation.prepare_evaluation(parts, call)
    parts = build_within_memory(config, memory.estimate_answering)
    return sampling.prepare_answer(parts, folder, asked.prompt)


def build_within_memory(config: ConfigDict, estimate: Callable[..., memory.Estimate]) -> Parts:
    """Builds the parts of a run, after checking that its devices and memory are available."""
    make_mesh(config.mesh.data, config.mesh.model)
    # Twice: before preparing data, which may take minutes, and once the vocabulary size is known.
    memory.check(config, estimate(config))
    parts = build(config)
    memory.check(config, estimate(config, parts.tokenizer.vocab_size))
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
    open_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # any answer can be printed in any locale
    code = main(sys.argv)
    if code == INTERRUPTED:
        # Imports and native threads may have been cut short, and crash in Python's normal shutdown.
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
