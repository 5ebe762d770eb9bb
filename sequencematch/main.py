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
from pathlib import Path

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from sequencematch import config as configuration
from sequencematch import memory, modes, validation, workdir
from sequencematch.data.catalog import check_harmless
from sequencematch.files import open_streams, say, tell
from sequencematch.run import Run, build
from sequencematch.train import heap
from sequencematch.train.guard import Diverged
from sequencematch.train.interrupt import Interrupted, Interruption
from sequencematch.train.mesh import make_mesh

DONE, REFUSED, STOPPED, LEFT = 0, 2, 3, 75
LONGEST = 100  # characters of a flag's name


def main(argv: Sequence[str]) -> int:
    """Does what the command line asks, or says in one line why not; returns the exit code."""
    heap.limit_arenas()
    logging.set_verbosity(logging.FATAL)  # what libraries log as errors reaches us as exceptions
    job = None
    try:
        with Interruption() as interruption, ExitStack() as held:
            job = prepare(argv, interruption, held)
            interruption.hear()
            job.do()
        return DONE
    except Interrupted as asked:
        return said(f"left on {asked}: {job.advice if job else 'nothing was begun'}", LEFT)
    except Diverged as error:
        return said(error, STOPPED)
    except (ValueError, OSError, flags.Error) as error:
        if job is None:
            return said(error, REFUSED)
        if isinstance(error, OSError):
            return said(f"stopped: {error}; when that is mended, {job.advice}", STOPPED)
        raise
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not memory.exhausted(error):
            raise
        advice = job.advice if job else "nothing was begun"
        return said(f"stopped: no memory is left; {advice}", STOPPED)


def said(reason: object, code: int) -> int:
    """Says a reason; returns the exit code."""
    say(reason)
    return code


def prepare(argv: Sequence[str], interruption: Interruption, held: ExitStack) -> modes.Job:
    """Checks everything, opens the data and the checkpoint; the job returned does the work.

    Raises:
      ValueError, OSError, flags.Error: what is wrong, where, and how to mend it.
      Interrupted: it was asked to leave meanwhile.
    """
    asked = parse(argv)
    if asked.help:
        return modes.Job(lambda: tell(f"{__doc__}\n{asked.get_help()}"))
    config, name = chosen(asked)
    validation.validate(config)
    if asked.config is None:  # what lies in a folder may be somebody else's
        check_harmless(config.task, config.data, configuration.defaults().data)
    folder = placed(asked.workdir or f"runs/{name}-{config.method}-{config.seed}")
    command = shlex.join(["python", "-m", "sequencematch.main", *argv[1:]])
    call = modes.Call(folder, name, command, interruption, held)
    if asked.mode == "train":
        begun = workdir.check_free(folder, config, asked.resume)
        run = affordable(config, memory.training)
        if asked.dry_run:
            return modes.rehearsal(run, call, begun)
        return modes.training(run, call, begun)
    workdir.check_run(folder, config)
    if asked.mode == "evaluate":
        return modes.evaluation(affordable(config, memory.evaluation), call)
    return modes.answering(affordable(config, memory.answering), folder, asked.prompt)


def affordable(config: ConfigDict, estimate: Callable[..., memory.Estimate]) -> Run:
    """The parts of a run that has the memory it takes, whatever its vocabulary, and with its own."""
    make_mesh(config.mesh.data, config.mesh.model)
    memory.check(config, estimate(config))
    run = build(config)
    memory.check(config, estimate(config, run.tokenizer.vocab_size))
    return run


def placed(path: str) -> Path:
    """The folder of a run, which must be a name that checkpoints can be written under.

    Raises:
      ValueError: it is not UTF-8.
    """
    try:
        str(Path(path).absolute()).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"--workdir={path} is not UTF-8: name another folder") from error
    return Path(path)


def define(values: flags.FlagValues) -> None:
    """Every flag but --config."""
    flags.DEFINE_enum(
        "mode", "train", ["train", "evaluate", "sample"], "What to do.", flag_values=values
    )
    flags.DEFINE_string(
        "workdir", None, "Folder of the run: runs/<config>-<method>-<seed>.", flag_values=values
    )
    flags.DEFINE_bool("resume", False, "Go on with the run in the folder.", flag_values=values)
    flags.DEFINE_bool(
        "dry_run", False, "Check all, show the plan and train nothing.", flag_values=values
    )
    flags.DEFINE_string("prompt", None, "What --mode=sample answers.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values)


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The flags, every one of them known and every `--config.key` a key of the file named.

    Raises:
      ValueError, flags.Error: which one is not.
    """
    for name in (arg.split("=")[0] for arg in argv[1:] if arg.startswith("-")):
        if len(name) > LONGEST:  # absl looks for what was meant by recursion
            raise ValueError(f"{name[:LONGEST]!r}... is no flag")
    named = flags.FlagValues()
    named.set_gnu_getopt()
    define(named)
    flags.DEFINE_string("config", None, "Configuration file.", flag_values=named)
    rest = [arg.lstrip("-") for arg in named(list(argv), known_only=True)[1:]]
    overrides = [arg.split("=")[0] for arg in rest if arg.startswith("config.")]
    check_overrides(named.config, [name.removeprefix("config.") for name in overrides])
    values = flags.FlagValues()
    define(values)
    # The file has to be known before what it is asked to change, wherever the flags stand.
    ordered = sorted(argv, key=lambda arg: arg != argv[0] and not arg.startswith("--config="))
    config_flags.DEFINE_config_file(
        "config",
        None,
        "configs/NAME.py[:method], and --config.key=value.",
        flag_values=values,
        sys_argv=ordered,
    )
    stray = values(ordered)[1:]
    if stray:
        raise ValueError(f"{stray[0]!r} is no flag: write --name=value")
    if values.mode == "sample" and not values.prompt:
        raise ValueError('--mode=sample needs --prompt="..."')
    if values.dry_run and values.mode != "train":
        raise ValueError(f"--dry_run is for --mode=train; --mode={values.mode} has no plan to show")
    return values


def check_overrides(file: str | None, keys: Sequence[str]) -> None:
    """Raises ValueError unless the file can be loaded and has the keys."""
    if file is None:
        if keys:
            raise ValueError(f"--config.{keys[0]} changes a file: name it with --config=FILE")
        return
    known = configuration.flat(load(file))
    for key in keys:
        configuration.known_key(key, known)


def load(file: str) -> ConfigDict:
    """The configuration of a file, `path[:method]`, before overrides.

    Raises:
      ValueError: it is missing, or fails.
    """
    path = Path(file.split(":")[0])
    if not path.is_file():
        there = map(str, [*path.parent.glob("*.py"), *Path("configs").glob("*.py")])
        near = configuration.suggestion(path, there)
        raise ValueError(f"--config={path}: no such file{near}")
    values, argv = flags.FlagValues(), ["", f"--config={file}"]
    try:
        config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
        values(argv)
        if not isinstance(values.config, ConfigDict):
            raise TypeError("get_config() must return a ConfigDict")
        return values.config
    except (Exception, SystemExit) as error:  # a file is Python: it can fail, or leave, in any way
        raise ValueError(f"--config={path} fails: {type(error).__name__}: {error}") from error


def chosen(asked: flags.FlagValues) -> tuple[ConfigDict, str]:
    """The configuration and its name: of the file named, else of the run in --workdir."""
    if asked.config is not None:
        return asked.config, Path(asked["config"].config_filename.split(":")[0]).stem
    if asked.workdir is None:
        raise ValueError(
            "name a configuration, --config=configs/arithmetic.py, or a run, --workdir=DIR"
        )
    saved = workdir.read(Path(asked.workdir))
    return saved["config"], saved["name"]


def unraisable(found) -> None:
    """Shows what Python could not raise; not a request to leave, which is kept for the next check,
    nor what a native thread met: the failure behind it reaches us as an exception."""
    native = threading.current_thread() is not threading.main_thread()
    if not native and not isinstance(found.exc_value, Interrupted):
        sys.__unraisablehook__(found)


if __name__ == "__main__":
    sys.unraisablehook = unraisable
    open_streams()
    sys.stdout.reconfigure(errors="backslashreplace")
    code = main(sys.argv)
    if code == LEFT:
        # Imports and native threads may have been cut short, and crash when Python takes them down.
        os._exit(code)
    sys.exit(code)
