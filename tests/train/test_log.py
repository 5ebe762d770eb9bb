"""Metrics are written once, in order, as JSON that everybody reads; TensorBoard shows the same."""

import json
import math
import os
import sys

import pytest

from sequencematch.storage import console
from sequencematch.storage.metrics_log import MetricsLog, read_records
from sequencematch.train.progress import ProgressLine
from tests.train.events import events, scalars

RECORDS = [
    {"kind": "train", "step": step, "phase": "bc", "loss": 1.0 / step, "skipped": 0}
    for step in range(1, 6)
]


def written(folder, records, kept=()):
    with MetricsLog(folder, kept) as log:
        for record in records:
            log.write(record)
    return (folder / "metrics.jsonl").read_text()


def without_time(text):
    return [
        {k: v for k, v in json.loads(line).items() if k != "time"} for line in text.splitlines()
    ]


def test_records_after_the_step_and_half_a_line_are_dropped(tmp_path):
    before = written(tmp_path, RECORDS)
    (tmp_path / "metrics.jsonl").write_text(before + '{"kind": "tra')
    kept = read_records(tmp_path, 3)
    assert (
        tmp_path / "metrics.jsonl"
    ).read_text() == before + '{"kind": "tra'  # reading is reading
    after = written(tmp_path, RECORDS[3:], kept)
    assert after.splitlines()[:3] == before.splitlines()[:3]
    assert without_time(after) == without_time(before)
    assert not list(tmp_path.glob("*.tmp"))


def test_tensorboard_is_drawn_anew_from_what_is_kept(tmp_path):
    written(tmp_path, RECORDS)
    whole = scalars(tmp_path)
    assert [(name, step) for name, step, _ in whole] == [
        (f"train/{name}", step) for step in range(1, 6) for name in ("loss", "skipped")
    ]
    written(tmp_path, RECORDS[2:], read_records(tmp_path, 2))
    assert scalars(tmp_path) == whole
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    times = {json.loads(line)["step"]: json.loads(line)["time"] for line in lines}
    drawn = [event for event in events(tmp_path) if event.summary.value]
    assert [event.wall_time for event in drawn] == pytest.approx([times[e.step] for e in drawn])


def test_what_json_has_no_word_for_is_null_and_not_drawn(tmp_path):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5}
    text = written(tmp_path, [{"kind": "train", "step": 1, **values}])
    record = json.loads(text, parse_constant=pytest.fail)
    assert [record[name] for name in values] == [None, None, None, 0.5]
    assert scalars(tmp_path) == [("train/d", 1, 0.5)]


def test_what_was_there_at_the_beginning_is_known(tmp_path):
    with MetricsLog(tmp_path, RECORDS[:2]) as log:
        assert ("train", 2) in log and ("train", 3) not in log and ("validation", 2) not in log


def test_what_is_written_is_there_at_once(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(RECORDS[0])
        assert len(read_records(tmp_path, 9)) == 1
        log.sync()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '{"kind": "train"}',
        "3",
        '{"step": "x"}',
        "\xff",
        '{"step": 1}',
        '{"step": 1, "kind": []}',
        '{"step": 1, "kind": "train", "loss": NaN}',
        '{"step": 1, "kind": "train", "tokens": 1' + "0" * 400 + "}",
        "[" * 100_000,
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    text = written(tmp_path, RECORDS)
    (tmp_path / "metrics.jsonl").write_text(text + line + "\n" + text, encoding="latin-1")
    with pytest.raises(ValueError) as raised:
        read_records(tmp_path, 3)
    assert str(raised.value).startswith(f"{tmp_path / 'metrics.jsonl'}:6 is damaged (")
    assert len(str(raised.value).splitlines()) == 1


def full():
    raise OSError(28, "No space left on device")


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    with MetricsLog(tmp_path) as log:
        monkeypatch.setattr(log._board, "flush", full)
        with pytest.raises(
            OSError, match=f"{tmp_path / 'metrics.jsonl'} cannot be written: No space"
        ):
            log.write(RECORDS[0])
        monkeypatch.undo()


@pytest.mark.parametrize("error", [None, ValueError("says more")])
def test_one_that_cannot_be_closed_is_named_unless_something_else_has_failed(
    tmp_path, monkeypatch, error
):
    named = pytest.raises(type(error or OSError()), match="cannot be written: No space|says more")
    with named, MetricsLog(tmp_path) as log:
        monkeypatch.setattr(log._board, "close", full)
        if error:
            raise error


def test_a_run_goes_on_when_nobody_reads_what_it_says(monkeypatch):
    """As with `| head`: rich would end the process."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", closed)
        console.to_stderr("three words more")
        patch.setattr(sys, "stdout", closed)
        with ProgressLine(2, 0, 100):
            for line in ("one", "two"):
                console.to_stdout(line)
