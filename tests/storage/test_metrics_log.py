"""Metrics are written once, in order, as strict JSON; TensorBoard shows the same numbers."""

import json
import math

import pytest

from sequencematch.storage.metrics_log import MetricsLog, best_validation, read_records
from tests.train.events import events, scalars

RECORDS = [
    {"kind": "train", "step": step, "phase": "bc", "loss": 1.0 / step, "skipped": 0}
    for step in range(1, 6)
]


def write_records(folder, records, earlier=()):
    """Opens a log with earlier records and writes more; returns the text of metrics.jsonl."""
    with MetricsLog(folder, earlier) as log:
        for record in records:
            log.write(record)
    return (folder / "metrics.jsonl").read_text()


def without_time(text):
    """The records in a text of JSON lines, without their times."""
    return [
        {k: v for k, v in json.loads(line).items() if k != "time"} for line in text.splitlines()
    ]


def test_reading_drops_records_after_the_step_and_half_a_line(tmp_path):
    before = write_records(tmp_path, RECORDS)
    (tmp_path / "metrics.jsonl").write_text(before + '{"kind": "tra')
    earlier = read_records(tmp_path, 3)
    # Reading does not change the file.
    assert (tmp_path / "metrics.jsonl").read_text() == before + '{"kind": "tra'
    after = write_records(tmp_path, RECORDS[3:], earlier)
    assert after.splitlines()[:3] == before.splitlines()[:3]
    assert without_time(after) == without_time(before)
    assert not list(tmp_path.glob("*.tmp"))


def test_tensorboard_is_rewritten_from_the_records(tmp_path):
    write_records(tmp_path, RECORDS)
    whole = scalars(tmp_path)
    assert [(name, step) for name, step, _ in whole] == [
        (f"train/{name}", step) for step in range(1, 6) for name in ("loss", "skipped")
    ]
    write_records(tmp_path, RECORDS[2:], read_records(tmp_path, 2))
    assert scalars(tmp_path) == whole
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    times = {json.loads(line)["step"]: json.loads(line)["time"] for line in lines}
    events_with_numbers = [event for event in events(tmp_path) if event.summary.value]
    assert [event.wall_time for event in events_with_numbers] == pytest.approx(
        [times[event.step] for event in events_with_numbers]
    )


def test_nan_and_infinities_are_null_in_json_and_absent_from_tensorboard(tmp_path):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5}
    text = write_records(tmp_path, [{"kind": "train", "step": 1, **values}])
    record = json.loads(text, parse_constant=pytest.fail)
    assert [record[name] for name in values] == [None, None, None, 0.5]
    assert scalars(tmp_path) == [("train/d", 1, 0.5)]


def test_a_log_contains_exactly_the_records_it_was_opened_with(tmp_path):
    with MetricsLog(tmp_path, RECORDS[:2]) as log:
        assert ("train", 2) in log and ("train", 3) not in log and ("validation", 2) not in log


def test_a_record_can_be_read_as_soon_as_it_is_written(tmp_path):
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
def test_a_damaged_line_is_reported_with_its_number(tmp_path, line):
    text = write_records(tmp_path, RECORDS)
    (tmp_path / "metrics.jsonl").write_text(text + line + "\n" + text, encoding="latin-1")
    with pytest.raises(ValueError) as raised:
        read_records(tmp_path, 3)
    assert str(raised.value).startswith(f"{tmp_path / 'metrics.jsonl'}:6 is damaged (")
    assert len(str(raised.value).splitlines()) == 1


def raise_disk_full():
    raise OSError(28, "No space left on device")


def test_a_failure_to_write_names_the_file(tmp_path, monkeypatch):
    with MetricsLog(tmp_path) as log:
        monkeypatch.setattr(log._board, "flush", raise_disk_full)
        with pytest.raises(
            OSError, match=f"{tmp_path / 'metrics.jsonl'} cannot be written: No space"
        ):
            log.write(RECORDS[0])
        monkeypatch.undo()


@pytest.mark.parametrize("error", [None, ValueError("says more")])
def test_a_failure_to_close_names_the_file_unless_another_error_says_more(
    tmp_path, monkeypatch, error
):
    expected = pytest.raises(
        type(error or OSError()), match="cannot be written: No space|says more"
    )
    with expected, MetricsLog(tmp_path) as log:
        monkeypatch.setattr(log._board, "close", raise_disk_full)
        if error:
            raise error


def test_the_best_validation_is_the_first_of_the_largest_figures_at_the_given_steps():
    figures = {1: 0.9, 2: None, 3: 0.5, 4: 0.7, 5: 0.7, 6: "x"}
    records = [{"kind": "validation", "step": s, "a": x} for s, x in figures.items()]
    records += [{"kind": "train", "step": 3, "a": 1.0}, {"kind": "validation", "step": 3}]
    saved = {*range(9)}
    assert best_validation(records, "a", saved, range(2, 9)) == (4, 0.7)
    assert best_validation(records, "a", saved, [1]) == best_validation(records, "a", {1}, range(9))
    assert best_validation(records, "a", {1}, range(9)) == (1, 0.9)
    assert best_validation(records, "a", set(), range(9)) is None
    assert best_validation(records, "b", saved, range(9)) is None
    assert best_validation([], "a", {1}, [1]) is None


def test_the_last_record_says_which_was_the_best_whatever_is_due_now():
    records = [{"kind": "validation", "step": s, "a": 1 / s, "best_step": 2} for s in (2, 3, 4)]
    records.append({"kind": "train", "step": 5})
    assert best_validation(records, "a", {2, 3, 4}, [3]) == (2, 0.5)
    assert best_validation(records, "a", {3, 4}, [4]) == (4, 0.25)  # that checkpoint is gone
