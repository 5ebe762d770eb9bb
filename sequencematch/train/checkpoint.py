"""Checkpoints that hold everything a run needs to go on."""

from pathlib import Path

import orbax.checkpoint as ocp
import tensorstore

from sequencematch.train.state import TrainState


class Checkpoints:
    """The checkpoints of one work directory; saving does not block training.

    Use as a context manager: leaving it waits for the save under way.

    Args:
      workdir: the run's folder.
      keep: how many checkpoints stay when new ones are saved; None to read only.
    """

    def __init__(self, workdir: Path, keep: int | None = None):
        self.folder = workdir.absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=keep is not None)
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
            _check_readable(self.folder / str(step) / "state")
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # orbax raises whatever its storage layers raise
            reason = str(error).strip().splitlines()[:1]
            raise ValueError(
                f"checkpoint {self.folder / str(step)} is damaged or of another model "
                f"({type(error).__name__}: {''.join(reason)[:160]}): remove that folder to go on from "
                "the one before, or start again in another --workdir"
            ) from error
        return restored["state"], restored["meta"]["seconds"]


def _check_readable(folder: Path) -> None:
    """Reads every array once: orbax, which reads all at once, floods stderr for a damaged one."""
    files = {"driver": "file", "path": f"{folder}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": files}).result()
    keys = store.list().result()
    lost = [key for key in keys if store.read(key).result().state != "value"]
    if lost or not keys:
        raise ValueError(f"{len(lost)} of {len(keys)} parts are lost")
