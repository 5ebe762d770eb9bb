"""The flags of the command line, and the configuration that they select."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from sequencematch.cli import workdir
from sequencematch.setup.defaults import check_known_key, flatten, suggest

LONGEST = 100  # characters of a flag name


def define_flags(values: flags.FlagValues) -> None:
    """Defines all flags except --config."""
    modes = ["train", "evaluate", "sample", "export"]
    flags.DEFINE_enum("mode", "train", modes, "What to do.", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run; default runs/<config>-<method>-<seed>.",
        flag_values=values,
    )
    flags.DEFINE_bool("resume", False, "Continue the run in --workdir.", flag_values=values)
    flags.DEFINE_bool(
        "dry_run", False, "Check everything, print the plan, train nothing.", flag_values=values
    )
    flags.DEFINE_string(
        "prompt", None, "The question that --mode=sample answers.", flag_values=values
    )
    flags.DEFINE_string("out", None, "The directory that --mode=export makes.", flag_values=values)
    flags.DEFINE_bool("help", False, "Print this help.", flag_values=values)


def parse_flags(argv: Sequence[str]) -> flags.FlagValues:
    """Parses the command line, and checks every `--config.key` against the configuration file.

    It is parsed twice. The first pass only finds the file and the overrides, so that an unknown key can
    be reported with the closest one that the file has.

    Raises:
      ValueError, flags.Error: a flag or a key does not exist, or a value is not allowed.
    """
    for name in (arg.split("=")[0] for arg in argv[1:] if arg.startswith("-")):
        if len(name) > LONGEST:  # absl searches for similar names recursively, and would overflow
            raise ValueError(f"{name[:LONGEST]!r}... is not a flag")
    argv = [resolve_config(arg) for arg in argv]
    named = flags.FlagValues()
    named.set_gnu_getopt()
    define_flags(named)
    flags.DEFINE_string("config", None, "Configuration file.", flag_values=named)
    rest = [arg.lstrip("-") for arg in named(list(argv), known_only=True)[1:]]
    overrides = [arg.split("=")[0] for arg in rest if arg.startswith("config.")]
    check_overrides(named.config, [name.removeprefix("config.") for name in overrides])
    values = flags.FlagValues()
    define_flags(values)
    # ml_collections needs --config before its overrides; users may write them in any order.
    ordered = sorted(argv, key=lambda arg: arg != argv[0] and not arg.startswith("--config="))
    config_flags.DEFINE_config_file(
        "config",
        None,
        "NAME[:METHOD] or FILE[:METHOD]; --config.KEY=VALUE overrides a key.",
        flag_values=values,
        sys_argv=ordered,
    )
    stray = values(ordered)[1:]
    if stray:
        raise ValueError(f"{stray[0]!r} is not a flag: write --name=value")
    if values.mode == "sample" and not values.prompt:
        raise ValueError('--mode=sample needs --prompt="..."')
    if values.mode == "export" and not values.out:
        raise ValueError("--mode=export needs --out=DIR, a new directory")
    if values.dry_run and values.mode != "train":
        raise ValueError(f"--dry_run is for --mode=train; --mode={values.mode} has no plan to show")
    return values


def resolve_config(arg: str) -> str:
    """Replaces the name in --config=NAME[:METHOD] by the file of that name in the package.

    Any other argument is returned as it is, and so is the name of a file.

    Raises:
      ValueError: the package has no such configuration.
    """
    flag, _, value = arg.partition("=")
    name, colon, method = value.partition(":")
    if flag.lstrip("-") != "config" or not name.isidentifier() or Path(name).is_file():
        return arg
    spec = importlib.util.find_spec("sequencematch.configs")
    folders = spec.submodule_search_locations if spec else []
    files = {path.stem: path for folder in folders for path in Path(folder).glob("[!_]*.py")}
    if name not in files:
        names = ", ".join(sorted(files)) or "none: is sequencematch installed?"
        raise ValueError(
            f"--config={name} is no file and no configuration of the package (there are {names})"
            f"{suggest(name, files)}"
        )
    return f"{flag}={files[name]}{colon}{method}"


def check_overrides(file: str | None, keys: Sequence[str]) -> None:
    """Raises ValueError unless the configuration file can be loaded and has all the keys."""
    if file is None:
        if keys:
            raise ValueError(f"--config.{keys[0]} overrides a file: name it with --config=FILE")
        return
    known = flatten(load_config(file))
    for key in keys:
        check_known_key(key, known)


def load_config(file: str) -> ConfigDict:
    """Loads the configuration of a file, `path[:method]`, without overrides.

    Raises:
      ValueError: the file does not exist, or running it fails.
    """
    path = Path(file.split(":")[0])
    if not path.is_file():
        existing = map(str, [*path.parent.glob("*.py"), *Path("configs").glob("*.py")])
        near = suggest(path, existing)
        raise ValueError(f"--config={path}: no such file{near}")
    values, argv = flags.FlagValues(), ["", f"--config={file}"]
    try:
        config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
        values(argv)
        if not isinstance(values.config, ConfigDict):
            raise TypeError("get_config() must return a ConfigDict")
        return values.config
    except (Exception, SystemExit) as error:  # a file is Python: it may raise anything, or exit
        raise ValueError(f"--config={path} fails: {type(error).__name__}: {error}") from error


def choose_config(asked: flags.FlagValues) -> tuple[ConfigDict, str]:
    """The configuration and its name: of the file in --config, else of the run in --workdir.

    Raises:
      ValueError: there is neither, or the run's config.json cannot be read.
    """
    if asked.config is not None:
        return asked.config, Path(asked["config"].config_filename.split(":")[0]).stem
    if asked.workdir is None:
        raise ValueError(
            "name a configuration, such as --config=arithmetic, or a run, --workdir=DIR"
        )
    saved = workdir.read_config(Path(asked.workdir))
    return saved["config"], saved["name"]


def check_workdir_name(path: str) -> Path:
    """The work directory as a path that orbax can write checkpoints to.

    Raises:
      ValueError: the path is not UTF-8.
    """
    try:
        str(Path(path).absolute()).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"--workdir={path} is not UTF-8: name another folder") from error
    return Path(path)
