"""The metrics of a run: `metrics.jsonl` and TensorBoard events."""

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from sequencematch.storage import files


def read_records(workdir: Path, step: int) -> list[dict]:
    """The records of metrics.jsonl up to a step; those after it a resumed run writes again.

    A last line that a kill cut short is left out.

    Raises:
      ValueError: another line is damaged.
    """
    path = workdir / "metrics.jsonl"
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    *lines, _ = text.split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = _parse_record(line)
            if record["step"] <= step:
                records.append(record)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{path}:{number} is damaged ({type(error).__name__}): remove that line to go on"
            ) from error
    return records


def _parse_record(line: str) -> dict:
    """A record that can be looked up, written and drawn; anything else fails in one way or another."""
    record = json.loads(line)
    hash((record["kind"], record["step"]))
    _line(record)
    _event(record)
    return record


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events of one work directory.

    The events are drawn from the records: both begin with those that are kept, and nothing else.

    Args:
      workdir: the run's folder.
      kept: records that are there already, as `recorded` reads them.

    Attributes:
      count: of the records.
    """

    def __init__(self, workdir: Path, kept: Sequence[dict] = ()):
        self._path, board = workdir / "metrics.jsonl", workdir / "tensorboard"
        files.write(self._path, "".join(map(_line, kept)))
        if board.exists():
            shutil.rmtree(board)
        board.mkdir()
        self._kept, self.count = {(record["kind"], record["step"]) for record in kept}, len(kept)
        self._file = self._path.open("a", buffering=1)
        # Not tensorboardX's SummaryWriter: its thread would lose events in a kill, and its errors.
        self._board = EventsWriter(str(board / "events"))
        for record in kept:
            self._board.write_event(_event(record))
        self._board.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, error: type[BaseException] | None, *_):
        try:
            with contextlib.closing(self._board), self._file:
                pass
        except OSError as full:
            if error is None:  # else that says more
                raise self._write_failure(full) from full

    def _write_failure(self, error: OSError) -> OSError:
        return OSError(f"{self._path} cannot be written: {error.strerror}")

    def __contains__(self, record: tuple[str, int]) -> bool:
        """Whether a record of this kind and step was there from the beginning."""
        return record in self._kept

    def write(self, record: dict) -> None:
        """Writes one record with the time; it has a `kind`, a `step`, and numbers or words.

        Raises:
          OSError: it cannot be written.
        """
        record = {name: None if _is_not_finite(x) else x for name, x in record.items()}
        record["time"] = time.time()
        try:
            self._file.write(_line(record))
            self._board.write_event(_event(record))
            self._board.flush()
        except OSError as error:
            raise self._write_failure(error) from error
        self.count += 1

    def sync(self) -> None:
        """Returns when what was written is on disk, as a checkpoint after it will be."""
        os.fsync(self._file.fileno())


def _event(record: dict) -> Event:
    """A record's numbers, as TensorBoard has them."""
    numbers = {
        f"{record['kind']}/{name}": x
        for name, x in record.items()
        if isinstance(x, int | float) and name not in ("step", "time")
    }
    values = [Summary.Value(tag=tag, simple_value=x) for tag, x in numbers.items()]
    event = Event(step=record["step"], summary=Summary(value=values))
    event.wall_time = record.get("time", 0.0)
    return event


def _line(record: dict) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _is_not_finite(x) -> bool:
    """JSON has no word for NaN and the infinities: they are written as null."""
    return isinstance(x, float) and not math.isfinite(x)
