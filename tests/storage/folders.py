"""Reads the checkpoints of a work directory."""

from sequencematch.storage.checkpoint import Checkpoints


def restore(tiny_run, folder):
    """What `Checkpoints.restore` finds for the model of the tiny run."""
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(tiny_run.parts.like)


def saved_steps(folder):
    """The names in checkpoints/ as numbers, in order."""
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
