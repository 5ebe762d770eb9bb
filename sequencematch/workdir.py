"""The folder of a run: what lies in it, and whether it may be used as asked."""

import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sequencematch.config import differences

# How a run is evaluated may change after it; what was trained may not.
FREE_TO_EVALUATE = ("evaluate.", "mesh.", "log_every", "checkpoint.")


def check_free(folder: Path, config: ConfigDict, resume: bool) -> None:
    """Whether training may write into the folder.

    Raises:
      ValueError: it holds a run and `resume` is not asked for, or it holds none to resume, or one of
        another configuration; nothing is touched.
    """
    if resume:
        check_same(folder, config, free=())
    elif folder.is_file():
        raise ValueError(f"--workdir={folder} is a file: name a folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"--workdir={folder} is not empty: add --resume to go on with the run in it, or name "
            "another --workdir"
        )


def check_run(folder: Path, config: ConfigDict) -> None:
    """Whether the folder holds a run of this configuration, its evaluation aside."""
    check_same(folder, config, free=FREE_TO_EVALUATE)


def check_same(folder: Path, config: ConfigDict, free: tuple[str, ...]) -> None:
    """Raises ValueError naming the keys in which the folder's run differs from `config`."""
    there = read(folder)["config"]
    found = [d for d in differences(plain(config), there) if not d.startswith(free or ("\0",))]
    if found:
        raise ValueError(
            f"--workdir={folder} holds a run of another configuration ({'; '.join(found)}): use the "
            "same, or another --workdir"
        )


def read(folder: Path) -> dict[str, Any]:
    """The name and the configuration of the folder's run.

    Raises:
      ValueError: there is no run, or its config.json is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"--workdir={folder} holds no run: there is no {path.name} in it")
    try:
        record = json.loads(path.read_text())
        return {"name": record["name"], "config": dict(record["config"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): the run cannot be opened") from error


def start(folder: Path, name: str, config: ConfigDict) -> None:
    """Makes the folder and writes down what runs in it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"name": name, "config": plain(config)})


def plain(config: ConfigDict) -> dict[str, Any]:
    """The configuration as JSON has it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def write_json(path: Path, record: dict) -> None:
    """Writes a JSON file whole or not at all."""
    write(path, json.dumps(record, indent=2) + "\n")


def write(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
