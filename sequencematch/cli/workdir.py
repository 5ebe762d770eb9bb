"""The work directory of a run: its config.json, its lock, and whether it may be used as asked."""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults, differences, flatten
from sequencematch.setup.newer_keys import add_newer_keys
from sequencematch.storage import files
from sequencematch.storage.processes import is_first

# Where the data and the pretrained model lie. What they are is known by checksums.
PLACES = (
    *(
        f"data.{key}"
        for key in ("dir", "path", "validation_path", "test_path", "corpus", "tokenizer")
    ),
    "model.path",
)

# Keys, or prefixes of keys, that may differ from config.json when a run is evaluated again. They do not
# change what was trained.
FREE_TO_EVALUATE = ("evaluate.", "mesh.", "log_every", "wandb", "checkpoint.", *PLACES)

# Keys that may differ when a run is resumed: the devices, which checkpoints stay, how many questions
# are answered at a time, where the data lie, whether W&B gets the records. Batches, noise and samples
# do not depend on them. `train.steps` may also be raised.
FREE_TO_RESUME = ("mesh.", "checkpoint.", "evaluate.rows", "train.steps", "wandb", *PLACES)

# Keys that are settled where a run begins, if they have these values: what the data take, and what
# its devices compute fast in.
SETTLED = {"prompt_slots": 0, "max_actions": 0, "evaluate.max_actions": 0, "model.dtype": "auto"}

RUN_PREFIX = "run:"  # of `config.init`, before the folder of another run
LOCK, CONFIG, FROZEN = "lock", "config.json", "frozen"
SUBFOLDERS = ("checkpoints", "damaged", "tensorboard", "profile", "wandb", FROZEN)
LEFTOVERS = {LOCK, CONFIG + ".tmp"}  # of a run that was killed before it wrote config.json


def check_free(folder: Path, config: ConfigDict, resume: bool) -> bool:
    """Checks that training may write into the folder; returns whether it holds a run to resume.

    Args:
      folder: the work directory, which need not exist.
      config: the configuration to train.
      resume: whether a run in the folder may be resumed.

    Raises:
      ValueError: the folder holds a run and `resume` is False, or a run of another configuration, or
        anything else. Nothing is changed.
    """
    check_writable(folder)
    check_links(folder)
    if resume and (folder / CONFIG).is_file():
        check_same(folder, config, free=FREE_TO_RESUME)
        check_not_shorter(folder, config)
        return True
    if folder.is_dir() and {path.name for path in folder.iterdir()} - LEFTOVERS:
        advice = (
            "it holds no run: name" if resume else "add --resume to continue the run in it, or name"
        )
        raise ValueError(f"--workdir={folder} is not empty: {advice} another --workdir")
    return False


def check_writable(folder: Path) -> None:
    """Raises ValueError unless the folder can be written into, or created."""
    # os.path, because pathlib raises for a path inside a folder that may not be read.
    if os.path.isfile(folder):
        raise ValueError(f"--workdir={folder} is a file: name a folder")
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    # The rights of the effective user, if possible.
    effective = os.access in os.supports_effective_ids
    may_write = os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective)
    if not nearest.is_dir() or not may_write:
        raise ValueError(
            f"--workdir={folder} cannot be written: {nearest} is not a folder that you may write into"
        )


def check_links(folder: Path) -> None:
    """Raises ValueError if a subfolder that is written into is a link, which may lead anywhere."""
    for name in SUBFOLDERS:
        if (folder / name).is_symlink():
            raise ValueError(
                f"{folder / name} is a symbolic link, and nothing is written through it: replace it "
                "by the folder that it points to"
            )


def check_format(folder: Path, current: int) -> None:
    """Raises ValueError if the checkpoints of the run are laid out in another way than the current one.

    The message names the version that made them, which can read them.
    """
    record = read_config(folder)
    if record["format"] != current:
        made_by = ", ".join(filter(None, [record["version"] or "one before", record["revision"]]))
        raise ValueError(
            f"the checkpoints in {folder} have format {record['format']}, and this version reads "
            f"format {current}: use the version of sequencematch that made them ({made_by}), or start "
            "again in another --workdir"
        )


def check_data(folder: Path, trained: int, current: int) -> None:
    """Raises ValueError if the checksum of the data is not that of the examples trained on."""
    if trained != current:
        raise ValueError(
            f"the data of the run in {folder}, or the ids of their symbols, are not those that it was "
            "trained on: put them back, use the version that trained it, or start again in another "
            "--workdir"
        )


def take_settled(folder: Path, config: ConfigDict) -> None:
    """Takes what was settled when the run in the folder began, where `config` leaves it open."""
    if (folder / CONFIG).is_file():
        ours, theirs = flatten(config), flatten(read_config(folder)["config"])
        settled = {
            key: theirs[key] for key, open_value in SETTLED.items() if ours[key] == open_value
        }
        config.update_from_flattened_dict(settled)


def check_same(folder: Path, config: ConfigDict, free: tuple[str, ...]) -> None:
    """Raises ValueError if the run in the folder differs from `config` in keys that are not free.

    Args:
      folder: the work directory.
      config: the configuration asked for.
      free: prefixes of the keys that may differ.
    """
    theirs = read_config(folder)["config"]
    if not (config.model.path and theirs.model.path):  # one of them begins with no model
        free = tuple(prefix for prefix in free if prefix != "model.path")
    found = [d for d in differences(to_json(config), theirs) if not d.startswith(free)]
    if found:
        raise ValueError(
            f"--workdir={folder} holds a run of another configuration ({'; '.join(found)}): use the "
            "same, or another --workdir"
        )


def check_own_questions(folder: Path, config: ConfigDict) -> None:
    """Raises ValueError if `config` names data other than those whose questions the folder keeps."""
    ours, theirs, default = map(flatten, (config, read_config(folder)["config"], defaults()))
    for key in (f"data.{name}" for name in ("path", "validation_path", "test_path", "corpus")):
        if ours[key] not in (default[key], theirs[key]):
            raise ValueError(
                f"config.{key}={ours[key]!r}: the run in {folder} asks the questions that it keeps, so "
                "leave this out, and name others by --data=FILE"
            )


def check_not_shorter(folder: Path, config: ConfigDict) -> None:
    """Raises ValueError if the run in the folder is to end earlier than it was begun to."""
    steps = read_config(folder)["config"].train.steps
    if config.train.steps < steps:
        raise ValueError(
            f"config.train.steps={config.train.steps}: the run in {folder} has {steps}, which may be "
            "raised on resume, but not lowered"
        )


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Locks the folder against other runs; the system releases the lock if this process dies.

    Of several processes of a run the first holds the lock.

    Raises:
      ValueError: another process holds the lock.
      OSError: the lock file cannot be opened, or is a link.
    """
    if not is_first():
        yield
        return
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
        os.fsync(file.fileno())  # other hosts are to read it
        try:
            yield
        finally:
            file.truncate(0)


def read_holder(folder: Path) -> str:
    """Which process holds the lock, as this one sees the folder; "" if none does."""
    try:
        return (folder / LOCK).read_text(errors="replace")
    except OSError:
        return ""


def read_config(folder: Path) -> dict[str, Any]:
    """The name, configuration and facts in the config.json of a run, which may be an older one.

    Keys that are newer than the run have the values that it was made with.

    Raises:
      ValueError: there is no config.json, it is damaged, or the run was made with a key that is gone.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} holds no run: there is no {path.name} in it")
    try:
        record = json.loads(path.read_text())
        if not isinstance(record["config"], dict):
            raise TypeError("its configuration is not an object")
        config = ConfigDict(add_newer_keys(record["config"]))
        facts = {"name": record["name"]} | {
            key: record.get(key) for key in ("checksum", "revision", "frozen")
        }
        version = record.get("versions", {}).get("sequencematch")
        record = facts | {"config": config, "format": record.get("format", 1), "version": version}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): the run cannot be opened") from error
    known, given = flatten(defaults()), flatten(config)
    for key in given:
        if key not in known and not any(name.startswith(f"{key}.") for name in known):
            raise ValueError(
                f"the run in {folder} was made with {key}={given[key]!r}, a key that this version of "
                f"sequencematch does not have: use the one that made it ({version or 'unknown'})"
            )
    return record


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as JSON stores it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def write_json(path: Path, record: dict) -> None:
    """Writes a JSON file atomically."""
    files.write(path, json.dumps(record, indent=2) + "\n")
