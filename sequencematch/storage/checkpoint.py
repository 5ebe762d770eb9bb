"""Checkpoints that hold everything a run needs to go on, and are known to be what was saved."""

import contextlib
import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from sequencematch.storage import allocator, files
from sequencematch.storage.fingerprint import fingerprints

_T = TypeVar("_T")


class State(Protocol):
    """Any pytree of arrays that knows its step."""

    step: Any


SAVED = "saved"  # a file beside the checkpoints: there were some, should they be gone


class Restored(NamedTuple):
    """What was found in a folder.

    Attributes:
      state: the newest sound state.
      facts: what was saved with it.
      damaged: of each newer checkpoint that is not sound, its step and what is wrong with it.
    """

    state: State
    facts: dict[str, Any]
    damaged: dict[int, str]


class Checkpoints:
    """The checkpoints of one work directory; saving does not block training.

    Use as a context manager: leaving it waits for the save under way.

    Args:
      workdir: the run's folder.
      keep: how many checkpoints stay when new ones are saved; None to read only.
      keep_every: of the older ones, those of multiples of so many steps stay too; 0 for none.
    """

    def __init__(self, workdir: Path, keep: int | None = None, keep_every: int = 0):
        self.folder = workdir.absolute() / "checkpoints"
        writes = keep is not None
        self._keep, self._keep_every = keep, keep_every
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_preservation_policy(keep, keep_every) if writes else None,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._flush),
            create=writes,
            cleanup_tmp_directories=writes,  # what a kill in the middle of a save left
            lightweight_initialize=True,  # what is damaged is found when it is read
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._saving = False  # whether a save was begun of which nobody has seen the end

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        with contextlib.closing(self._manager):
            self.wait()

    def save(self, state: State, facts: Mapping[str, Any]) -> None:
        """Saves the state after `state.step` steps, with facts for JSON; a state is saved once.

        Raises:
          OSError: this save, or the one before, could not be written.
        """
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        meta = {"facts": dict(facts), "fingerprints": _fingerprints(state, facts)}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        if not self._try_write(lambda: self._manager.save(step, args=items)):
            raise OSError(f"checkpoint {step} was not written: {self.folder} has a later one")
        self._saving = True

    def check(self) -> None:
        """Says whether a save that has ended in the background has failed; waits for none.

        Raises:
          OSError: it could not be written.
        """
        if self._saving and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          OSError: it could not be written.
        """
        saved, self._saving = self._saving, False
        self._try_write(self._manager.wait_until_finished)
        if saved:
            self._mark()
            allocator.trim()  # what the save's threads have freed

    def _mark(self) -> None:
        if not self.is_empty():  # a failure is raised once only, and then passed over
            files.write(self.folder.parent / SAVED, "")

    def _flush(self) -> None:
        """Puts all that a checkpoint is restored from on disk, before it gets its name."""
        for folder in self.folder.glob("*orbax-checkpoint-tmp*"):
            for path in (folder, *folder.rglob("*")):
                files.flush(path)

    def _try_write(self, write: Callable[[], _T]) -> _T:
        try:
            return write()
        except Exception as error:  # orbax raises whatever its storage layers raise
            raise OSError(
                f"a checkpoint could not be written to {self.folder} ({_reason(error)}); the earlier "
                "ones are intact"
            ) from error

    def is_empty(self) -> bool:
        """Whether there is none."""
        return not self._manager.all_steps()

    def all_lost(self) -> bool:
        """Whether there is none although some were saved, as a marker tells or a run that was done."""
        signs = (SAVED, "summary.json")
        return self.is_empty() and any((self.folder.parent / name).exists() for name in signs)

    def tidy(self) -> None:
        """Finishes what a kill after the end of a save has left undone; the newest one is sound."""
        assert self._keep, "opened to read only"
        self._mark()
        for step in sorted(self._manager.all_steps())[: -self._keep]:
            if not self._keep_every or step % self._keep_every:
                self._manager.delete(step)

    def restore(self, like: State) -> Restored:
        """The newest sound state, placed and sharded as `like`.

        Args:
          like: arrays, or `jax.ShapeDtypeStruct`s with shardings.

        Raises:
          ValueError: there is none.
          OSError: one cannot be read, for a reason that says nothing of what is in it.
        """
        damaged: dict[int, str] = {}
        # Those there now: a run that trains may have removed one that is read, for a newer one.
        while left := _steps(self.folder) - damaged.keys():
            step = max(left)
            try:
                return Restored(
                    *self._read(step, like), {n: damaged[n] for n in damaged if n > step}
                )
            except Exception as error:  # orbax again
                self._raise_if_io_failure(step, error)
                damaged[step] = (
                    f"checkpoint {self.folder / str(step)} is damaged or of another model "
                    f"({type(error).__name__}: {_reason(error)})"
                )
        if damaged:
            first, *others = damaged.values()
            rest = f", and so are the {len(others)} before it" if others else ""
            raise ValueError(f"{first}{rest}: start again in another --workdir")
        raise ValueError(f"no checkpoint in {self.folder}: train first, or name another --workdir")

    def _raise_if_io_failure(self, step: int, error: Exception) -> None:
        """Raises what kept a checkpoint from being read, unless that is the checkpoint."""
        for cause in files.causes(error):  # orbax wraps requests to leave, too
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
        if files.is_io_failure(error):
            raise OSError(
                f"checkpoint {self.folder / str(step)} cannot be read ({_reason(error)}): when that is "
                "mended, try again"
            ) from error

    def _read(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
        _check_readable(self.folder / str(step) / "state")
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=items)
        if int(found["state"].step) != step:
            raise ValueError(f"it holds step {int(found['state'].step)}")
        state, facts, saved = found["state"], found["meta"]["facts"], found["meta"]["fingerprints"]
        now = _fingerprints(state, facts)
        other = [name for name in now if now[name] != saved.get(name)]
        if other:
            raise ValueError(f"{len(other)} of {len(now)} parts are not what was saved")
        return state, facts


def set_aside(workdir: Path, step: int) -> Path:
    """Moves a damaged checkpoint out of the way of the one that is to come; returns its place.

    Before `Checkpoints` are opened to write: orbax, asked to look again, fails at what is damaged.
    """
    place = workdir / "damaged" / str(step)
    while place.exists():
        place = place.with_name(place.name + "+")
    place.parent.mkdir(exist_ok=True)
    return (workdir / "checkpoints" / str(step)).rename(place)


def _steps(folder: Path) -> set[int]:
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise OSError(
            f"checkpoints in {folder} cannot be read ({error.strerror}): when that is mended, try again"
        ) from error
    return {int(name) for name in names if name.isdecimal() and str(int(name)) == name}


def _fingerprints(state: State, facts: Mapping[str, Any]) -> dict[str, int]:
    """Of every array, and of the facts."""
    prints = {name: int(x) for name, x in jax.device_get(fingerprints(state)).items()}
    return prints | {"facts": zlib.crc32(json.dumps(facts, sort_keys=True).encode())}


def _preservation_policy(keep: int, keep_every: int) -> AnyPreservationPolicy:
    every = [EveryNSteps(keep_every)] if keep_every else []
    return AnyPreservationPolicy([LatestN(keep), *every])


def _reason(error: Exception) -> str:
    """The heart of a storage layer's message, on one line: the last words hold the cause, but for
    what tensorstore adds, [name='value'].
    """
    lines = str(error).strip().splitlines() or [""]
    return re.split(r" \[\w+='", lines[0])[0].rsplit('": ', 1)[-1][-160:]


def _check_readable(folder: Path) -> None:
    """Reads every array once: orbax, which reads all at once, floods stderr for a damaged one."""
    files = {"driver": "file", "path": f"{folder}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": files}).result()
    keys = store.list().result()
    lost = [key for key in keys if store.read(key).result().state != "value"]
    if lost or not keys:
        raise ValueError(f"{len(lost)} of {len(keys)} parts are lost")
