"""The flags of the command line, and the configuration that they name."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from sequencematch.cli import workdir
from sequencematch.setup.defaults import check_known_key, flat, suggest

LONGEST = 100  # characters of a flag's name


def define_flags(values: flags.FlagValues) -> None:
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


def parse_flags(argv: Sequence[str]) -> flags.FlagValues:
    """The flags, every one of them known and every `--config.key` a key of the file named.

    Raises:
      ValueError, flags.Error: which one is not.
    """
    for name in (arg.split("=")[0] for arg in argv[1:] if arg.startswith("-")):
        if len(name) > LONGEST:  # absl looks for what was meant by recursion
            raise ValueError(f"{name[:LONGEST]!r}... is no flag")
    named = flags.FlagValues()
    named.set_gnu_getopt()
    define_flags(named)
    flags.DEFINE_string("config", None, "Configuration file.", flag_values=named)
    rest = [arg.lstrip("-") for arg in named(list(argv), known_only=True)[1:]]
    overrides = [arg.split("=")[0] for arg in rest if arg.startswith("config.")]
    check_overrides(named.config, [name.removeprefix("config.") for name in overrides])
    values = flags.FlagValues()
    define_flags(values)
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
    known = flat(load_config(file))
    for key in keys:
        check_known_key(key, known)


def load_config(file: str) -> ConfigDict:
    """The configuration of a file, `path[:method]`, before overrides.

    Raises:
      ValueError: it is missing, or fails.
    """
    path = Path(file.split(":")[0])
    if not path.is_file():
        there = map(str, [*path.parent.glob("*.py"), *Path("configs").glob("*.py")])
        near = suggest(path, there)
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


def choose_config(asked: flags.FlagValues) -> tuple[ConfigDict, str]:
    """The configuration and its name: of the file named, else of the run in --workdir."""
    if asked.config is not None:
        return asked.config, Path(asked["config"].config_filename.split(":")[0]).stem
    if asked.workdir is None:
        raise ValueError(
            "name a configuration, --config=configs/arithmetic.py, or a run, --workdir=DIR"
        )
    saved = workdir.read(Path(asked.workdir))
    return saved["config"], saved["name"]


def check_workdir_name(path: str) -> Path:
    """The folder of a run, which must be a name that checkpoints can be written under.

    Raises:
      ValueError: it is not UTF-8.
    """
    try:
        str(Path(path).absolute()).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"--workdir={path} is not UTF-8: name another folder") from error
    return Path(path)
