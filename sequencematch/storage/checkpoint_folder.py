"""The folder of a run's checkpoints, read without orbax."""

from pathlib import Path

import tensorstore

from sequencematch.storage.files import is_io_failure
from sequencematch.storage.processes import first_finds, is_first


def saved_steps(folder: Path, step: int | None = None) -> set[int]:
    """The steps in the folder of checkpoints, from the names; of these only `step`, unless it is None.

    When orbax lists checkpoints again it reads their metadata, and damage in one would hide all.
    """
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise OSError(
            f"checkpoints in {folder} cannot be read ({error.strerror}): when that is fixed, try again"
        ) from error
    steps = {int(name) for name in names if name.isdecimal() and str(int(name)) == name}
    return steps if step is None else steps & {step}


def check_readable(folder: Path) -> None:
    """Checks that every part can be read; all processes have to call it, and the first reads.

    orbax reads all at once, and for a damaged checkpoint floods stderr with errors.

    Raises:
      ValueError: parts are lost or damaged. In the first process also what the storage layers raise.
    """
    fault = None
    if is_first():
        try:
            read_all(folder)
        except Exception as error:
            fault = error
    if first_finds(fault is not None):
        # A disk that fails is not damage, to any of them.
        cannot_now = first_finds(fault is not None and is_io_failure(fault))
        raise fault or (TimeoutError if cannot_now else ValueError)(
            "the first process cannot read it"
        )


def read_all(folder: Path) -> None:
    """Reads every part once, one after another.

    Raises:
      ValueError: parts are lost or damaged.
    """
    base = {"driver": "file", "path": f"{folder}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = store.list().result()
    lost = [key for key in keys if store.read(key).result().state != "value"]
    if lost or not keys:
        raise ValueError(f"{len(lost)} of {len(keys)} parts are lost")


def set_aside(workdir: Path, step: int) -> Path:
    """Moves a damaged checkpoint to damaged/, so that its step can be saved again; returns the path.

    Call it before `Checkpoints` are opened to write: orbax fails when it lists a damaged one again.
    """
    place = workdir / "damaged" / str(step)
    while place.exists():
        place = place.with_name(place.name + "+")
    place.parent.mkdir(exist_ok=True)
    return (workdir / "checkpoints" / str(step)).rename(place)
