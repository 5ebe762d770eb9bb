"""Compares two runs bit for bit, apart from their clocks: arrays, metrics, traces, summary, events.

    python -m tests.dependability.same_run RUN RUN

Prints the first difference of each kind, and ends with exit code 1 if there is one.
"""

import hashlib
import json
import struct
import sys
import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from tensorboardX.proto.event_pb2 import Event

from sequencematch.setup.defaults import flatten
from sequencematch.train import profiling

CLOCK = {*profiling.CLOCK, "speed", "command"}  # may differ between equal runs
ABSENT = "absent"
Facts = list[tuple[str, Any]]  # names and values, in order


def differences(ours: Path, theirs: Path) -> list[str]:
    """The first difference of each kind; [] if the runs are the same bit for bit."""
    found = [f"files: {name} only in one" for name in sorted(files(ours) ^ files(theirs))]
    found += [first_difference(kind, read(ours), read(theirs)) for kind, read in KINDS.items()]
    # Event files have times of their own inside: each run's are compared with its metrics.jsonl.
    for run in (ours, theirs):
        found.append(first_difference(f"TensorBoard of {run.name}", events(run), scalars(run)))
    return [difference for difference in found if difference]


def first_difference(kind: str, ours: Facts, theirs: Facts) -> str | None:
    """The first place where two lists of facts differ, in one line."""
    for one, other in zip_longest(ours, theirs, fillvalue=(ABSENT, "")):
        if one != other:
            ends = (textwrap.shorten(f"{name} {value}", 160) for name, value in (other, one))
            return f"{kind}: {' -> '.join(ends)}"
    return None


def files(run: Path) -> set[str]:
    """Paths in the folder and one level below; orbax and TensorBoard choose the names of others."""
    inside = [path.relative_to(run) for path in run.rglob("*")]
    return {str(p) for p in inside if len(p.parts) < 3 and p.parent.name != "tensorboard"}


def arrays(run: Path) -> Facts:
    """A checksum of every array of every checkpoint."""
    folders = sorted(run.glob("checkpoints/[0-9]*/state"))
    return [fact for folder in folders for fact in _checksums(folder)]


def read_arrays(folder: Path) -> Any:
    """Reads a checkpoint's state as a tree of arrays, without the model it belongs to."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder).item_metadata.tree
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=plain))


def _checksums(folder: Path) -> Iterator[tuple[str, str]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(read_arrays(folder)):
        x = np.asarray(leaf)
        digest = hashlib.sha256(x.tobytes()).hexdigest()
        yield (
            f"step {folder.parent.name}{jax.tree_util.keystr(path)}",
            f"{x.dtype}{x.shape} {digest}",
        )


def lines(run: Path, name: str) -> Facts:
    """The records of a jsonl file without their clocks; a line that is no record is left as it is."""
    path = run / name
    text = path.read_text() if path.is_file() else ABSENT
    return [(f"line {i}", _without_clock(line)) for i, line in enumerate(text.split("\n"), 1)]


def _without_clock(line: str) -> str:
    try:
        return json.dumps({k: v for k, v in json.loads(line).items() if k not in CLOCK})
    except (ValueError, AttributeError):
        return line


def summary(run: Path) -> Facts:
    """Every figure of summary.json."""
    path = run / "summary.json"
    known = flatten(json.loads(path.read_text())) if path.is_file() else {ABSENT: ""}
    return [(k, json.dumps(v)) for k, v in known.items() if k.split(".")[0] not in CLOCK]


def text(run: Path, name: str) -> Facts:
    """The text of a file."""
    path = run / name
    return [("", path.read_text() if path.is_file() else ABSENT)]


def scalars(run: Path) -> Facts:
    """What TensorBoard should have: the numbers of metrics.jsonl, in order."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        (f"{record['kind']}/{name} at {record['step']}", float(np.float32(value)).hex())
        for record in records
        for name, value in record.items()
        if isinstance(value, int | float) and name not in ("step", "time")
    ]


def events(run: Path) -> Facts:
    """What TensorBoard's files have, in the order in which it reads them."""
    parts = [e for path in sorted(run.glob("tensorboard/*tfevents*")) for e in _read_events(path)]
    return [
        (f"{value.tag} at {event.step}", value.simple_value.hex())
        for event in parts
        for value in event.summary.value
    ]


def _read_events(path: Path) -> Iterator[Event]:
    """Reads an event file: for each event 8 bytes of length, a checksum of 4, the event, another."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield Event.FromString(data[at + 12 : at + 12 + length])
        at += 12 + length + 4


KINDS = {
    "config.json": lambda run: text(run, "config.json"),
    "task.json": lambda run: text(run, "task.json"),
    "questions.jsonl": lambda run: text(run, "questions.jsonl"),
    "arrays": arrays,
    "metrics.jsonl": lambda run: lines(run, "metrics.jsonl"),
    "traces.jsonl": lambda run: lines(run, "traces.jsonl"),
    "summary.json": summary,
}


def main() -> int:
    """Compares the two runs named."""
    logging.set_verbosity(logging.ERROR)
    found = differences(*map(Path, sys.argv[1:3]))
    print("\n".join(found) or "bit for bit the same")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
