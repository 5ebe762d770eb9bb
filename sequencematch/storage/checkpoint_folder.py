"""The folder of a run's checkpoints, read without orbax."""

from pathlib import Path

import tensorstore


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
    """Reads every part once, one after another.

    orbax reads all at once, and for a damaged checkpoint floods stderr with errors.
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
