"""Which checkpoint of a run is taken: the newest, the best by validation, or that of a step."""

from collections.abc import Sequence
from pathlib import Path

from sequencematch.evaluate.generate import VALIDATED
from sequencematch.setup.build import Parts
from sequencematch.storage.checkpoint_folder import saved_steps
from sequencematch.storage.metrics_log import best_validation, read_records

NEWEST, BEST = "newest", "best"  # words for --checkpoint, which is a step otherwise


def best_checkpoint(
    parts: Parts, folder: Path, records: Sequence[dict]
) -> tuple[int, float] | None:
    """(step, figure) of the best validation, of the steps that the run saves and that are there.

    Args:
      parts: the parts of the run.
      folder: the work directory.
      records: of its metrics log.
    """
    every, last = parts.config.checkpoint.every, parts.config.train.steps
    saved = saved_steps(folder.absolute() / "checkpoints")
    due = {step for step in saved if step % every == 0 or step == last}
    return best_validation(records, f"{parts.task.judged_by}/{VALIDATED[0]}", saved, due)


def find_step(parts: Parts, folder: Path, checkpoint: str) -> int | None:
    """The step that --checkpoint names; None for the newest.

    Raises:
      ValueError: there is no validation of a checkpoint that is there.
    """
    if checkpoint == NEWEST:
        return None
    if checkpoint.isdecimal():
        return int(checkpoint)
    if checkpoint != BEST:
        raise ValueError(f"checkpoint={checkpoint!r} must be {NEWEST}, {BEST}, or a step")
    best = best_checkpoint(parts, folder, read_records(folder, parts.config.train.steps))
    if best is None:
        raise ValueError(
            f"--checkpoint={BEST}: no checkpoint in {folder} was validated: take the newest, or name "
            "a step"
        )
    return best[0]
