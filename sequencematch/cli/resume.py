"""What a run's folder tells of its training: the newest sound state, its records, what made it.

Whatever is not as it was when the run was cut is said, or refused.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sequencematch.cli import workdir
from sequencematch.setup.build import Parts
from sequencematch.storage.checkpoint import Checkpoints, Restored
from sequencematch.storage.console import to_stderr
from sequencematch.storage.metrics_log import read_records
from sequencematch.storage.provenance import changes, provenance
from sequencematch.train.state import TrainState

# What a checkpoint says of its making.
MADE = ("name", "checksum", "versions", "settings", "revision", "hardware", "mesh", "earlier")


class Beginning(NamedTuple):
    """From where a run is trained.

    Attributes:
      state: restored; None for step 0.
      kept: records of its metrics.
      seconds: that it took.
      damaged: steps of newer checkpoints, to be set aside.
      record: what is written down of the run, here and in checkpoints.
    """

    state: TrainState | None
    kept: list[dict]
    seconds: float
    damaged: Sequence[int]
    record: dict[str, Any]


def find_beginning(run: Parts, folder: Path, name: str, begun: bool) -> Beginning:
    """From where a run goes on in a folder that holds its beginning, or step 0 in one that does not.

    Args:
      run: as it is configured now.
      folder: its work directory, which nobody else writes into.
      name: of the configuration.
      begun: whether the folder holds the beginning of this run.

    Raises:
      ValueError, OSError: what stands in the way of going on.
    """
    restored = restore_newest(run, folder) if begun else None
    facts: Mapping[str, Any] = restored.facts if restored else {"seconds": 0.0, "records": 0}
    step = int(restored.state.step) if restored else 0
    kept = read_records(folder, step) if restored else []
    if len(kept) < facts["records"]:
        to_stderr(
            f"metrics.jsonl has {len(kept)} of {facts['records']} records: the others are lost"
        )
    record = {"name": name, "checksum": run.data, "config": workdir.to_json(run.config)}
    record |= provenance_record(facts, current_provenance(run), done=step == run.config.train.steps)
    state, damaged = (restored.state, tuple(restored.damaged)) if restored else (None, ())
    # A look at a step comes after its save, and takes time of its own.
    taken = [facts["seconds"], *(r.get("seconds") for r in kept)]
    seconds = max(x for x in taken if isinstance(x, float))
    return Beginning(state, kept, seconds, damaged, record)


def restore_newest(run: Parts, folder: Path) -> Restored | None:
    """The newest sound state, with a word on what is not as it was; None if none was ever saved.

    Raises:
      ValueError: there were some, and begun again the run would write over what is left of it; or
        it cannot go on with them.
      OSError: one cannot be read.
    """
    with Checkpoints(folder) as checkpoints:
        if checkpoints.all_lost():
            raise ValueError(
                f"the run in {folder} has saved checkpoints, and they are gone: put them back, or "
                "start again in another --workdir"
            )
        if checkpoints.is_empty():
            to_stderr(f"no checkpoint in {checkpoints.folder} yet: starting at step 0")
            return None
    restored = restore(run, folder)
    changed = changes(restored.facts, current_provenance(run))
    if changed:
        to_stderr(
            f"the run was saved elsewhere ({'; '.join(changed)}) and may not go on bit for bit"
        )
    return restored


def current_provenance(run: Parts) -> dict[str, Any]:
    """What decides every bit of what is trained now: its provenance, and the mesh, data x model."""
    mesh = run.config.mesh
    return {**provenance(), "mesh": f"{mesh.data} x {mesh.model}"}


def provenance_record(
    facts: Mapping[str, Any], now: Mapping[str, Any], done: bool
) -> dict[str, Any]:
    """What trains a run from here on, unless it is done, and what trained earlier parts."""
    if "versions" not in facts:
        return {**now, "earlier": []}
    before = {key: facts[key] for key in now}
    if done or before == now:
        return before | {"earlier": facts["earlier"]}
    return {**now, "earlier": [*facts["earlier"], before]}


def restore(run: Parts, folder: Path) -> Restored:
    """The newest sound state of the folder's run, with a word on newer ones.

    Raises:
      ValueError: there is none, or the data have changed.
      OSError: it cannot be read.
    """
    known = workdir.read(folder)["checksum"]
    if known is not None:  # before other shapes make every checkpoint look damaged
        workdir.check_data(folder, known, run.data)
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(run.like)
    missing = {*MADE, "seconds", "records"} - restored.facts.keys()
    if missing:
        raise ValueError(
            f"the run in {folder} is of another version of sequencematch (its checkpoints say nothing "
            f"of {', '.join(sorted(missing))}): go on with that, or start again in another --workdir"
        )
    workdir.check_data(folder, restored.facts["checksum"], run.data)
    for said in restored.damaged.values():
        to_stderr(f"{said}: going back to that of step {int(restored.state.step)}")
    return restored


def read_summary(path: Path, step: int) -> dict[str, Any]:
    """What a run's summary says of its training to a step; nothing if there is none of it.

    Raises:
      ValueError: the summary is damaged, or of a later step, and would be lost.
    """
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text())
        judged, command = int(known["steps"]), known["command"]
        seconds = float(known["seconds"]["train"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to evaluate the run") from error
    if judged > step:
        raise ValueError(
            f"{path} tells of step {judged}, but the newest sound checkpoint is of step {step}: go on "
            "with --resume, or remove it to evaluate that one"
        )
    return {"command": command, "seconds": {"train": seconds}} if judged == step else {}
