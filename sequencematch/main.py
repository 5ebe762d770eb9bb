"""The command line: train a model, evaluate it again, or let it answer.

python -m sequencematch.main --config=configs/arithmetic.py[:method] [--config.key=value ...]

--mode=train     trains, evaluates on the test set and writes report.html (the default); with
                 --dry_run it checks everything, shows the plan and trains nothing
--mode=evaluate  evaluates the newest checkpoint of a run again
--mode=sample    answers --prompt with it, printing the answer as it is written

Exit codes, with one line on stderr:
  0   done
  2   it cannot be done as asked; nothing was changed
  3   it had to stop: no disk or memory left, or steps that are not finite; the checkpoints are sound
  75  it was asked to leave (Ctrl-C, SIGTERM, a notice of preemption) and has saved: --resume goes on
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
from sequencematch.setup.defaults import defaults
from sequencematch.setup.machine import is_out_of_memory
from sequencematch.setup.validate import validate
from sequencematch.storage import allocator
from sequencematch.storage.console import open_streams, to_stderr, to_stdout
from sequencematch.train.guard import Diverged
from sequencematch.train.mesh import make_mesh
from sequencematch.train.stop_requests import Interrupted, StopRequests

DONE, REFUSED, STOPPED, LEFT = 0, 2, 3, 75


def main(argv: Sequence[str]) -> int:
    """Does what the command line asks, or says in one line why not; returns the exit code."""
    logging.set_verbosity(logging.FATAL)  # what libraries log as errors reaches us as exceptions
    job = None
    try:
        allocator.limit_arenas()  # before jax starts its threads
        with StopRequests() as stop_requests, ExitStack() as held:
            job = prepare(argv, stop_requests, held)
            stop_requests.raise_if_asked()
            job.do()
        return DONE
    except Interrupted as asked:
        return exit_with(f"left on {asked}: {job.advice if job else 'nothing was begun'}", LEFT)
    except Diverged as error:
        return exit_with(error, STOPPED)
    except (ValueError, OSError, flags.Error) as error:
        if job is None:
            return exit_with(error, REFUSED)
        if isinstance(error, OSError):
            return exit_with(f"stopped: {error}; when that is mended, {job.advice}", STOPPED)
        raise
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        advice = job.advice if job else "nothing was begun"
        return exit_with(f"stopped: no memory is left; {advice}", STOPPED)


def exit_with(reason: object, code: int) -> int:
    """Says a reason; returns the exit code."""
    to_stderr(reason)
    return code


def prepare(argv: Sequence[str], stop_requests: StopRequests, held: ExitStack) -> Job:
    """Checks everything, opens the data and the checkpoint; the job returned does the work.

    Raises:
      ValueError, OSError, flags.Error: what is wrong, where, and how to mend it.
      Interrupted: it was asked to leave meanwhile.
    """
    asked = parse_flags(argv)
    if asked.help:
        return Job(lambda: to_stdout(f"{__doc__}\n{asked.get_help()}"))
    config, name = choose_config(asked)
    validate(config)
    if asked.config is None:  # what lies in a folder may be somebody else's
        check_harmless(config.task, config.data, defaults().data)
    folder = check_workdir_name(asked.workdir or f"runs/{name}-{config.method}-{config.seed}")
    command = shlex.join(["python", "-m", "sequencematch.main", *argv[1:]])
    call = Call(folder, name, command, stop_requests, held)
    if asked.mode == "train":
        begun = workdir.check_free(folder, config, asked.resume)
        run = build_if_affordable(config, memory.estimate_training)
        if asked.dry_run:
            return training.prepare_dry_run(run, call, begun)
        return training.prepare_training(run, call, begun)
    workdir.check_run(folder, config)
    if asked.mode == "evaluate":
        return evaluation.prepare_evaluation(
            build_if_affordable(config, memory.estimate_evaluation), call
        )
    return sampling.prepare_answer(
        build_if_affordable(config, memory.estimate_answering), folder, asked.prompt
    )


def build_if_affordable(config: ConfigDict, estimate: Callable[..., memory.Estimate]) -> Parts:
    """The parts of a run that has the memory it takes, whatever its vocabulary, and with its own."""
    make_mesh(config.mesh.data, config.mesh.model)
    memory.check(config, estimate(config))
    run = build(config)
    memory.check(config, estimate(config, run.tokenizer.vocab_size))
    return run


def report_unraisable(found) -> None:
    """Shows what Python could not raise; not a request to leave, which is kept for the next check,
    nor what a native thread met: the failure behind it reaches us as an exception."""
    native = threading.current_thread() is not threading.main_thread()
    if not native and not isinstance(found.exc_value, Interrupted):
        sys.__unraisablehook__(found)


if __name__ == "__main__":
    sys.unraisablehook = report_unraisable
    open_streams()
    sys.stdout.reconfigure(errors="backslashreplace")
    code = main(sys.argv)
    if code == LEFT:
        # Imports and native threads may have been cut short, and crash when Python takes them down.
        os._exit(code)
    sys.exit(code)
