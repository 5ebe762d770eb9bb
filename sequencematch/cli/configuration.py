"""The configuration that a command line selects: of a file, with its overrides, or of a run."""

import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sequencematch.cli import workdir
from sequencematch.setup.defaults import check_known_key, defaults, flatten, suggest
from sequencematch.storage.files import expand

MODULE = "sequencematch_configuration"  # the name that a configuration file is imported under


def join_config(args: Sequence[str]) -> list[str]:
    """Replaces `--config FILE` by `--config=FILE`, wherever it stands."""
    joined, rest = [], iter(args)
    for arg in rest:
        value = next(rest, None) if arg in ("--config", "-config") else None
        joined.append(arg if value is None else f"--config={value}")
    return joined


def find_config(name: str) -> tuple[Path, list[str]]:
    """The file that NAME[:METHOD] or FILE[:METHOD] names, and what to give to its `get_config`.

    A path may have colons: the longest beginning that is a file counts.

    Raises:
      ValueError: there is no such file and no such configuration.
    """
    file, rest = name, []
    while ":" in file and not Path(file).is_file():
        file, _, method = file.rpartition(":")
        rest = [":".join([method, *rest])]
    if Path(file).is_file():
        return Path(file), rest
    if file.isidentifier():
        return packaged_config(file), rest
    path = Path(name.split(":")[0]) if name else name
    existing = [] if not name else [*path.parent.glob("*.py"), *Path("configs").glob("*.py")]
    raise ValueError(f"--config={path}: no such file{suggest(path, map(str, existing))}")


def packaged_config(name: str) -> Path:
    """The file of a configuration of the package.

    Raises:
      ValueError: the package has no such configuration.
    """
    spec = importlib.util.find_spec("sequencematch.configs")
    folders = spec.submodule_search_locations if spec else []
    files = {path.stem: path for folder in folders for path in Path(folder).glob("[!_]*.py")}
    if name not in files:
        names = ", ".join(sorted(files)) or "none: is sequencematch installed?"
        raise ValueError(
            f"--config={name} is no file and no configuration of the package (there are {names})"
            f"{suggest(name, files)}"
        )
    return files[name]


def load_config(path: Path, method: Sequence[str]) -> ConfigDict:
    """Runs a configuration file.

    Args:
      path: the file, which is Python.
      method: what its `get_config` is called with: one text, or nothing.

    Raises:
      ValueError: it fails; says in which line.
    """
    try:
        loader = SourceFileLoader(MODULE, str(path))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(MODULE, loader))
        sys.modules[MODULE] = module  # dataclasses in the file look there
        loader.exec_module(module)
        config = module.get_config(*method)
        if not isinstance(config, ConfigDict):
            raise TypeError("get_config() must return a ConfigDict")
        return config
    except (Exception, SystemExit) as error:  # a file is Python: it may raise anything, or exit
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        place = f" in line {lines[-1]}" if lines else ""
        raise ValueError(
            f"--config={path} fails{place}: {type(error).__name__}: {error}"
        ) from error


def run_config(folder: Path) -> tuple[ConfigDict, str]:
    """The configuration of a run, with tuples where JSON has lists, and its name.

    Raises:
      ValueError: there is no run, or its config.json cannot be read.
    """
    record = workdir.read_config(folder)
    saved, known = record["config"].to_dict(), defaults().to_dict()
    return ConfigDict(restore_tuples(saved, known)), record["name"]


def restore_tuples(saved: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The saved values, those as tuples that are lists and have tuples for defaults."""

    def restore(value: Any, default: Any) -> Any:
        if isinstance(value, dict) and isinstance(default, dict):
            return restore_tuples(value, default)
        return tuple(value) if isinstance(value, list) and isinstance(default, tuple) else value

    return {key: restore(value, known.get(key)) for key, value in saved.items()}


def choose_config(
    file: str | None, folder: str | None, overrides: Sequence[str]
) -> tuple[ConfigDict, str, bool]:
    """The configuration, its name, and whether it is a file's: else it is the run's in the folder.

    Args:
      file: what --config names.
      folder: the work directory.
      overrides: keys that the command line changes.

    Raises:
      ValueError: there is neither a file nor a run, it cannot be loaded, or lacks one of the keys.
    """
    if file is not None:
        path, method = find_config(file)
        config, name = load_config(path, method), path.stem
    elif overrides and not (folder and (expand(folder) / workdir.CONFIG).is_file()):
        raise ValueError(
            f"--config.{overrides[0]} changes a configuration: name it with --config=FILE, or name a "
            "run with --workdir=DIR"
        )
    elif folder is None:
        raise ValueError(
            "name a configuration, such as --config=arithmetic, or a run, --workdir=DIR"
        )
    else:
        config, name = run_config(expand(folder))
    for key in overrides:
        check_known_key(key, flatten(config))
    return config, name, file is not None
