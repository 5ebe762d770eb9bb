"""Checkpoints that hold everything a run needs to resume, and are verified when they are restored."""

import contextlib
import dataclasses
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PreservationPolicy,
)

from sequencematch.storage import allocator, files
from sequencematch.storage.checkpoint_folder import check_readable, saved_steps
from sequencematch.storage.fingerprint import fingerprints
from sequencematch.storage.processes import is_first

_T = TypeVar("_T")


class State(Protocol):
    """Any pytree of arrays with a `step`."""

    step: Any


SAVED = "saved"  # a file beside checkpoints/: some were saved, even if they are gone now


class Restored(NamedTuple):
    """What a work directory holds.

    Attributes:
      state: the newest intact state.
      facts: what was saved with it.
      damaged: the step of each newer checkpoint that is damaged, and what is wrong with it.
    """

    state: State
    facts: dict[str, Any]
    damaged: dict[int, str]


@dataclasses.dataclass
class Best(PreservationPolicy):
    """Preserves the checkpoint of one step, beside what other policies preserve.

    Attributes:
      step: of the best checkpoint; None while none is known.
    """

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each checkpoint is that one."""
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Manager(ocp.CheckpointManager):
    """One that leaves it to `train.stop_requests` to ask jax for a notice of preemption.

    All that ask it have to count alike, and orbax would count by steps.
    """

    def reached_preemption(self, step: int) -> bool:
        """No, as far as this manager is concerned."""
        return False


class Checkpoints:
    """The checkpoints of one work directory; saving does not block training.

    Use it as a context manager: on leaving, it waits for a save in progress.

    Args:
      workdir: the run's folder.
      keep: how many of the newest checkpoints remain after a save; None to read only.
      keep_every: older ones also remain if their step is a multiple of this; 0 for none.
      best: step of one more that remains; None for none yet.
    """

    def __init__(
        self,
        workdir: Path,
        keep: int | None = None,
        keep_every: int = 0,
        best: int | None = None,
    ):
        # orbax needs an absolute path, and tensorstore refuses one with "..".
        self.folder = workdir.resolve() / "checkpoints"
        writes = keep is not None
        self._keep, self._keep_every, self._best = keep, keep_every, Best(best)
        policies = [
            LatestN(keep),
            self._best,
            *([EveryNSteps(keep_every)] if keep_every else []),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies) if writes else None,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._flush),
            create=writes,
            cleanup_tmp_directories=writes,  # left by a kill during a save
            lightweight_initialize=True,  # damage is found when a checkpoint is read, not here
        )
        self._manager = Manager(self.folder, options=options)
        self._saving = False  # a save has begun, and its result is not known yet

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        with contextlib.closing(self._manager):
            self.wait()

    def save(self, state: State, facts: Mapping[str, Any]) -> None:
        """Starts to save a state under its step, unless it is the newest checkpoint already.

        Args:
          state: what to save.
          facts: what to save with it as JSON.

        Raises:
          OSError: this save or the one before could not be written.
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
        """Raises if a save in the background has ended and failed; does not wait for one.

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
            allocator.trim()  # what the threads of the save have freed

    def _mark(self) -> None:
        # orbax raises a failure only once: after it, waiting succeeds though nothing was saved.
        if is_first() and not self.is_empty():
            files.write(self.folder.parent / SAVED, "")

    def _flush(self) -> None:
        """Flushes a checkpoint to disk before it gets its final name.

        A checkpoint with its name is then complete, also after a power cut.
        """
        for folder in self.folder.glob("*orbax-checkpoint-tmp*"):
            for path in (folder, *folder.rglob("*")):
                files.flush(path)

    def _try_write(self, write: Callable[[], _T]) -> _T:
        try:
            return write()
        except Exception as error:  # orbax passes on whatever its storage layers raise
            raise OSError(
                f"a checkpoint could not be written to {self.folder} ({_reason(error)}); the earlier "
                "ones are intact"
            ) from error

    def is_empty(self) -> bool:
        """Whether there is no checkpoint."""
        return not self._manager.all_steps()

    def all_lost(self) -> bool:
        """Whether there is no checkpoint although there were some.

        The marker shows it, and so does the summary of a run that is done.
        """
        signs = (SAVED, "summary.json")
        return self.is_empty() and any((self.folder.parent / name).exists() for name in signs)

    def tidy(self) -> None:
        """Finishes what a kill right after a save left undone: the marker, and the removal of old ones.

        To be called when the newest checkpoint is known to be intact.
        """
        assert self._keep, "opened to read only"
        self._mark()
        for step in sorted(self._manager.all_steps())[: -self._keep]:
            if step != self._best.step and (not self._keep_every or step % self._keep_every):
                self._manager.delete(step)

    def keep_best(self, step: int) -> None:
        """Keeps the checkpoint of this step, in place of the one that was the best before.

        Raises:
          OSError: a save in progress could not be written.
        """
        former, self._best.step = self._best.step, step
        if former is not None:
            self.wait()  # the new one must be on disk before the former is removed
            self.tidy()

    def restore(self, like: State, step: int | None = None) -> Restored:
        """Restores the newest intact state, placed and sharded as `like`.

        Args:
          like: arrays, or `jax.ShapeDtypeStruct`s with shardings.
          step: the step to restore, and no other; None for the newest.

        Raises:
          ValueError: there is none.
          OSError: a checkpoint cannot be read now, which does not mean that it is damaged.
        """
        damaged: dict[int, str] = {}
        if step is not None and step not in (kept := saved_steps(self.folder)):
            raise ValueError(
                f"no checkpoint of step {step} in {self.folder}: there are those of steps "
                f"{', '.join(map(str, sorted(kept))) or 'none'}"
            )
        # Listed again each time: a run that trains may have replaced the one just tried by a newer one.
        while left := saved_steps(self.folder, step) - damaged.keys():
            newest = max(left)
            try:
                return Restored(
                    *self._read(newest, like), {n: damaged[n] for n in damaged if n > newest}
                )
            except Exception as error:  # whatever the storage layers raise, as above
                self._raise_if_io_failure(newest, error)
                damaged[newest] = (
                    f"checkpoint {self.folder / str(newest)} is damaged or of another model "
                    f"({type(error).__name__}: {_reason(error)})"
                )
        if damaged:
            first, *others = damaged.values()
            rest = f", and so are the {len(others)} before it" if others else ""
            advice = (
                "start again in another --workdir" if step is None else "name another --checkpoint"
            )
            raise ValueError(f"{first}{rest}: {advice}")
        raise ValueError(f"no checkpoint in {self.folder}: train first, or name another --workdir")

    def _raise_if_io_failure(self, step: int, error: Exception) -> None:
        """Raises unless the error means that the checkpoint is damaged."""
        for cause in files.causes(error):
            # A stop request is a KeyboardInterrupt; orbax wraps it in an error of its own.
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
        if files.is_io_failure(error):
            raise OSError(
                f"checkpoint {self.folder / str(step)} cannot be read ({_reason(error)}): when that is "
                "fixed, try again"
            ) from error

    def _read(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
        check_readable(self.folder / str(step) / "state")
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=items)
        state = found["state"]
        if int(state.step) != step:  # the folder has been renamed
            raise ValueError(f"it holds step {int(state.step)}")
        facts, saved = found["meta"]["facts"], found["meta"]["fingerprints"]
        now = _fingerprints(state, facts)
        other = [name for name in now if now[name] != saved.get(name)]
        if other:
            raise ValueError(f"{len(other)} of {len(now)} parts are not what was saved")
        return state, facts


def _fingerprints(state: State, facts: Mapping[str, Any]) -> dict[str, int]:
    """Fingerprints of every array by its path, and of the facts."""
    prints = {name: int(x) for name, x in jax.device_get(fingerprints(state)).items()}
    return prints | {"facts": zlib.crc32(json.dumps(facts, sort_keys=True).encode())}


def _reason(error: Exception) -> str:
    """The cause in a storage layer's message, on one line.

    The cause comes last in the first line, before the [name='value'] that tensorstore appends.
    """
    lines = str(error).strip().splitlines() or [""]
    return re.split(r" \[\w+='", lines[0])[0].rsplit('": ', 1)[-1][-160:]
