"""Checkpoints that hold everything a run needs to go on."""

import json
import os
from pathlib import Path

import orbax.checkpoint as ocp

from sequencematch.train.state import TrainState


class Checkpoints:
    """The checkpoints of one work directory; saving does not block training.

    Use as a context manager: leaving it waits for the save under way.
    """

    def __init__(self, workdir: Path, keep: int = 1):
        self.folder = workdir.absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, state: TrainState, seconds: float) -> None:
        """Saves the state after `state.step` steps, with the seconds that training has taken."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave({"seconds": seconds})
        )
        self._manager.save(int(state.step), args=items)

    def restore(self, like: TrainState) -> tuple[TrainState, float]:
        """The newest state, placed and sharded as `like`, and the seconds that training took.

        Args:
          like: arrays, or `jax.ShapeDtypeStruct`s with shardings.

        Raises:
          ValueError: if there is none, or it cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            raise ValueError(
                f"no checkpoint in {self.folder}: train first, or name another --workdir"
            )
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # orbax raises whatever its storage layers raise
            reason = str(error).strip().splitlines()[:1]
            raise ValueError(
                f"checkpoint {self.folder / str(step)} is damaged or of another model "
                f"({type(error).__name__}: {''.join(reason)[:160]}): remove that folder to go on from "
                "the one before, or start again in another --workdir"
            ) from error
        return restored["state"], restored["meta"]["seconds"]


def write_atomically(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: Path, record: dict) -> None:
    """Writes a JSON file whole or not at all."""
    write_atomically(path, json.dumps(record, indent=2) + "\n")
