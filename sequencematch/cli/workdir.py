"""The folder of a run: what lies in it, whether it may be used as asked, and by whom."""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sequencematch.setup.defaults import differences
from sequencematch.storage import files

# How a run is evaluated may change after it; what was trained may not.
FREE_TO_EVALUATE = ("evaluate.", "mesh.", "log_every", "checkpoint.")

# Where a run goes on, what it keeps and how many questions it answers at once may change: batches,
# noise and samples are the same.
FREE_TO_RESUME = ("mesh.", "checkpoint.", "evaluate.rows")

# What a run that was killed before it was written down may leave.
LOCK, CONFIG = "lock", "config.json"
WRITTEN = ("checkpoints", "damaged", "tensorboard")
NOTHING = {LOCK, CONFIG + ".tmp"}


def check_free(folder: Path, config: ConfigDict, resume: bool) -> bool:
    """Whether training may write into the folder; says whether there is a run to go on with.

    Raises:
      ValueError: it holds a run and `resume` is not asked for, or one of another configuration, or
        anything else; nothing is touched.
    """
    check_writable(folder)
    check_links(folder)
    if resume and (folder / CONFIG).is_file():
        check_same(folder, config, free=FREE_TO_RESUME)
        return True
    if folder.is_dir() and {path.name for path in folder.iterdir()} - NOTHING:
        advice = (
            "it holds no run: name"
            if resume
            else "add --resume to go on with the run in it, or name"
        )
        raise ValueError(f"--workdir={folder} is not empty: {advice} another --workdir")
    return False


def check_writable(folder: Path) -> None:
    """Raises ValueError unless the folder is there, or can be made, and can be written into."""
    # Of a place it may not look into, os.path says that nothing is there; pathlib raises.
    if os.path.isfile(folder):
        raise ValueError(f"--workdir={folder} is a file: name a folder")
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    may = os.access(there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
    if not there.is_dir() or not may:
        raise ValueError(f"--workdir={folder} cannot be written: {there} does not let you")


def check_links(folder: Path) -> None:
    """Raises ValueError if a folder that is written into leads out of the run's."""
    for name in WRITTEN:
        if (folder / name).is_symlink():
            raise ValueError(
                f"{folder / name} is a link, and nothing is written through it: put in its place the "
                "folder that it leads to"
            )


def check_run(folder: Path, config: ConfigDict) -> None:
    """Whether the folder holds a run of this configuration, its evaluation aside."""
    check_same(folder, config, free=FREE_TO_EVALUATE)


def check_data(folder: Path, trained: int, here: int) -> None:
    """Raises ValueError if the folder's run was trained on other examples, by their checksums."""
    if trained != here:
        raise ValueError(
            f"the data of the run in {folder} are not those that it was trained on: put them back, or "
            "start again in another --workdir"
        )


def check_same(folder: Path, config: ConfigDict, free: tuple[str, ...]) -> None:
    """Raises ValueError naming the keys in which the folder's run differs from `config`."""
    there = read(folder)["config"]
    found = [d for d in differences(to_json(config), there) if not d.startswith(free)]
    if found:
        raise ValueError(
            f"--workdir={folder} holds a run of another configuration ({'; '.join(found)}): use the "
            "same, or another --workdir"
        )


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keeps every other process from writing into the folder; the system frees it if this one dies.

    Raises:
      ValueError: another process works in it.
    """
    with files.open_lock(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(
                f"--workdir={folder} is in use by {file.read().strip() or 'another process'}: wait for "
                "it, or name another --workdir"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def read(folder: Path) -> dict[str, Any]:
    """The name, the configuration and the checksum of the data of the folder's run.

    Raises:
      ValueError: there is no run, or its config.json is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"--workdir={folder} holds no run: there is no {path.name} in it")
    try:
        record = json.loads(path.read_text())
        if not isinstance(record["config"], dict):
            raise TypeError("its configuration is no object")
        config = ConfigDict(record["config"])
        return {"name": record["name"], "config": config, "checksum": record.get("checksum")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): the run cannot be opened") from error


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as JSON has it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def write_json(path: Path, record: dict) -> None:
    """Writes a JSON file whole or not at all."""
    files.write(path, json.dumps(record, indent=2) + "\n")
