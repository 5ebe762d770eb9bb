"""The metrics of a run: `metrics.jsonl`, TensorBoard events, and other boards."""

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Container, Sequence, Set
from pathlib import Path
from typing import Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from sequencematch.storage import files


def read_records(workdir: Path, step: int) -> list[dict]:
    """Reads the records of metrics.jsonl up to a step; a resumed run writes the later ones again.

    A last line without its newline, which a kill cut short, is left out.

    Args:
      workdir: the run's folder.
      step: the last step to include.

    Raises:
      ValueError: another line is damaged.
    """
    path = workdir / "metrics.jsonl"
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    *lines, _ = text.split("\n")  # the last is empty, or was cut short
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = _parse_record(line)
            if record["step"] <= step:
                records.append(record)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{path}:{number} is damaged ({type(error).__name__}): remove that line to continue"
            ) from error
    return records


def best_validation(
    records: Sequence[dict], name: str, saved: Set[int], due: Container[int]
) -> tuple[int, float] | None:
    """(step, figure) of the validation with the largest figure, the first of equal ones.

    The last record says at which step it was, as "best_step": which steps were due may have changed
    since. Records of older versions do not, and its checkpoint may be gone: then it is sought anew.

    Args:
      records: as `read_records` returns them.
      name: the figure.
      saved: steps whose checkpoints are there.
      due: steps at which the run saves unasked; others do not count.

    Returns:
      None if there is none with a number.
    """
    validations = [record for record in records if record["kind"] == "validation"]
    told = saved & {record.get("best_step") for record in validations[-1:]}
    steps = told or {step for step in saved if step in due}
    found = [
        (record["step"], record[name])
        for record in validations
        if record["step"] in steps and isinstance(record.get(name), int | float)
    ]
    return max(found, key=lambda each: (each[1], -each[0]), default=None)


def _parse_record(line: str) -> dict:
    """Parses a record and tries every use of it: to look it up, to write it and to plot it.

    A damaged line can fail in any of them, with errors of several types.
    """
    record = json.loads(line)
    hash((record["kind"], record["step"], record.get("best_step")))
    _line(record)
    _event(record)
    return record


class Board(Protocol):
    """Shows records beside TensorBoard."""

    def write(self, record: dict) -> None:
        """Shows one record."""

    def close(self) -> None:
        """Shows what is left to show."""


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events of one work directory.

    The events are derived from the records: on opening, both are rewritten and hold the given records.

    Args:
      workdir: the run's folder.
      records: those to start with, as `read_records` returns them.
      boards: get the others as they are written.

    Attributes:
      count: the number of records.
    """

    def __init__(self, workdir: Path, records: Sequence[dict] = (), boards: Sequence[Board] = ()):
        self._boards = boards
        self._path, board = workdir / "metrics.jsonl", workdir / "tensorboard"
        files.write(self._path, "".join(map(_line, records)))
        if board.exists():
            shutil.rmtree(board)
        board.mkdir()
        self._initial = {(record["kind"], record["step"]) for record in records}
        self.count = len(records)
        self._file = self._path.open("a", buffering=1)  # by lines: a kill loses no earlier record
        # tensorboardX's SummaryWriter writes in a thread: a kill would lose its events, and an error
        # there would not reach us.
        self._board = EventsWriter(str(board / "events"))
        for record in records:
            self._board.write_event(_event(record))
        self._board.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, error: type[BaseException] | None, *_):
        try:
            with contextlib.closing(self._board), self._file:
                for board in self._boards:
                    board.close()
        except OSError as failure:
            if error is None:  # an error of the run says more
                raise self._write_failure(failure) from failure

    def _write_failure(self, error: OSError) -> OSError:
        return OSError(f"{self._path} cannot be written: {error.strerror}")

    def __contains__(self, record: tuple[str, int]) -> bool:
        """Whether a record of this (kind, step) was there when the log was opened."""
        return record in self._initial

    def write(self, record: dict) -> None:
        """Writes one record and the time.

        Args:
          record: a `kind`, a `step`, and numbers or words.

        Raises:
          OSError: it cannot be written.
        """
        # JSON has no NaN and no infinity: they are written as null.
        record = {
            name: None if isinstance(x, float) and not math.isfinite(x) else x
            for name, x in record.items()
        }
        record["time"] = time.time()
        try:
            self._file.write(_line(record))
            self._board.write_event(_event(record))
            self._board.flush()
        except OSError as error:
            raise self._write_failure(error) from error
        for board in self._boards:
            board.write(record)
        self.count += 1

    def sync(self) -> None:
        """Returns when all records are on disk; called before a checkpoint that counts on them."""
        os.fsync(self._file.fileno())


def numbers(record: dict) -> dict[str, int | float]:
    """The numbers of a record by KIND/NAME, as boards show them."""
    return {
        f"{record['kind']}/{name}": x
        for name, x in record.items()
        if isinstance(x, int | float) and name not in ("step", "time")
    }


def _event(record: dict) -> Event:
    """The numbers of a record as a TensorBoard event."""
    values = [Summary.Value(tag=tag, simple_value=x) for tag, x in numbers(record).items()]
    event = Event(step=record["step"], summary=Summary(value=values))
    event.wall_time = record.get("time", 0.0)
    return event


def _line(record: dict) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
