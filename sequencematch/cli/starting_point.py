"""Finds where to resume a run: the newest sound state, its records and its provenance.

Anything that is not as it was when the run stopped is reported, or refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sequencematch.cli import workdir
from sequencematch.cli.identity import frozen_checksum, network_facts
from sequencematch.cli.resume import current_provenance, restore
from sequencematch.setup.build import Parts
from sequencematch.storage.checkpoint import Checkpoints, Restored
from sequencematch.storage.console import to_stderr
from sequencematch.storage.metrics_log import read_records
from sequencematch.storage.provenance import changes, merge_provenance
from sequencematch.train.optimizer import learning_rate
from sequencematch.train.state import FORMAT, TrainState


class StartingPoint(NamedTuple):
    """The point from which a run is trained.

    Attributes:
      state: the restored state; None to start at step 0.
      records: records of the metrics log up to that state.
      seconds: time that the run has taken so far.
      spent: where it went, as of `loop.Recorder`; nothing of a run that was begun without measuring.
      damaged_steps: steps of newer, damaged checkpoints, which are to be moved away.
      facts: name, configuration and provenance, for config.json and the next checkpoints.
    """

    state: TrainState | None
    records: list[dict]
    seconds: float
    spent: Mapping[str, float]
    damaged_steps: Sequence[int]
    facts: dict[str, Any]


def find_starting_point(parts: Parts, folder: Path, name: str, has_run: bool) -> StartingPoint:
    """The newest sound state of the run in a work directory, or step 0 if there is none.

    Args:
      parts: the parts of the run, as configured now.
      folder: the work directory, which no other process writes into.
      name: name of the configuration.
      has_run: whether the folder holds a run to resume.

    Raises:
      ValueError, OSError: the run cannot be resumed.
    """
    restored = restore_for_training(parts, folder) if has_run else None
    saved: Mapping[str, Any] = restored.facts if restored else {"seconds": 0.0, "records": 0}
    step = int(restored.state.step) if restored else 0
    records = read_records(folder, step) if restored else []
    if len(records) < saved["records"]:
        to_stderr(
            f"metrics.jsonl has {len(records)} of {saved['records']} records: the others are lost"
        )
    facts = {"name": name, "checksum": parts.data.checksum, "config": workdir.to_json(parts.config)}
    facts |= {"format": FORMAT, "frozen": frozen_checksum(parts), "network": network_facts(parts)}
    is_done = step == parts.config.train.steps
    facts |= merge_provenance(saved, current_provenance(parts), is_done)
    state, damaged = (restored.state, tuple(restored.damaged)) if restored else (None, ())
    # The validation of a step runs after its save, so its record may have the later time.
    times = [saved["seconds"], *(record.get("seconds") for record in records)]
    seconds = max(x for x in times if isinstance(x, float))
    spent = saved.get("spent", {})  # older versions did not measure it
    return StartingPoint(state, records, seconds, spent, damaged, facts)


def restore_for_training(parts: Parts, folder: Path) -> Restored | None:
    """The newest sound state; None if none was ever saved. Reports a change of provenance.

    Raises:
      ValueError: the data are others than those trained on; checkpoints were saved but are gone, and
        starting over would overwrite the rest of the run; or the run cannot continue from them.
      OSError: a checkpoint cannot be read.
    """
    checksum = workdir.read_config(folder)["checksum"]
    if checksum is not None:
        workdir.check_data(folder, checksum, parts.data.checksum)
    with Checkpoints(folder) as checkpoints:
        if checkpoints.all_lost():
            raise ValueError(
                f"the run in {folder} has saved checkpoints, but they are gone: put them back, or "
                "start again in another --workdir"
            )
        if checkpoints.is_empty():
            to_stderr(f"no checkpoint in {checkpoints.folder} yet: starting at step 0")
            return None
    restored = restore(parts, folder)
    changed = changes(restored.facts, current_provenance(parts))
    if changed:
        to_stderr(
            f"the run was saved in another environment ({'; '.join(changed)}): it may not continue "
            "bit for bit"
        )
    report_longer_run(parts, restored)
    return restored


def report_longer_run(parts: Parts, restored: Restored) -> None:
    """Prints what changes where a run is resumed with more steps than it was saved with."""
    step, config = int(restored.state.step), parts.config
    before, now = restored.facts["config"]["train"]["steps"], config.train.steps
    if before != now:
        peak = config.optimizer.learning_rate
        old, new = (float(learning_rate(config.optimizer, n, peak)(step)) for n in (before, now))
        to_stderr(
            f"train.steps is raised from {before} to {now}: after step {step} the learning rate goes "
            f"from {old:.3g} to {new:.3g}, and with beta follows the schedule of a run of {now} steps"
        )
