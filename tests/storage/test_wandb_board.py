"""Records go to Weights & Biases once, and all parts of a run to one run there; here kept on disk."""

import json
import time

import pytest

from sequencematch.storage import wandb_board
from sequencematch.storage.metrics_log import MetricsLog, read_records
from sequencematch.storage.wandb_board import WandbBoard, check_installed

RECORDS = [{"kind": "train", "step": s, "phase": "bc", "loss": 1.0 / s} for s in range(1, 6)]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def write_part(folder, records, earlier=()):
    """One part of a run, from the records of earlier ones."""
    board = WandbBoard(folder, "owner/project", {"seed": 0}, earlier)
    with MetricsLog(folder, earlier, [board]) as log:
        for record in records:
            log.write(record)


def records_of(path):
    """What a file of W&B's holds, once it is whole: its process writes the end after `finish`."""
    # Only here: it takes three seconds, which every process that collects tests would lose.
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    found, until = [], time.monotonic() + 30
    while not any(record.HasField("exit") for record in found) and time.monotonic() < until:
        time.sleep(0.02)
        store = DataStore()
        store.open_for_scan(str(path))
        found = [Record.FromString(data) for data in iter(store.scan_data, None)]
    return found


def sent_rows(folder):
    """(identifiers of the runs, (step, loss) of every row) that W&B's files hold, in order."""
    ids, rows = set(), []
    # In the order in which they were begun.
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=begin_of):
        for record in records_of(path):
            if record.HasField("run"):
                ids.add((record.run.entity, record.run.project, record.run.run_id))
            row = {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in record.history.item
            }
            if row:
                rows.append((row["step"], row["train/loss"]))
    return ids, rows


def begin_of(path):
    """When the run of a file began."""
    return next(r.run.start_time.ToMicroseconds() for r in records_of(path) if r.HasField("run"))


@pytest.mark.stress
def test_parts_of_a_run_are_one_run_there_and_no_record_is_sent_twice(tmp_path):
    write_part(tmp_path, RECORDS[:4])
    # Resumed from a checkpoint at step 2: the next two are taken again, the same bit for bit.
    write_part(tmp_path, RECORDS[2:], read_records(tmp_path, 2))
    ids, rows = sent_rows(tmp_path)
    identifier = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert ids == {("owner", "project", identifier)}
    assert rows == [(r["step"], r["loss"]) for r in RECORDS]
    assert len(read_records(tmp_path, 9)) == 5


@pytest.mark.stress
def test_a_run_that_had_no_board_sends_its_earlier_records_too(tmp_path):
    with MetricsLog(tmp_path) as log:
        for record in RECORDS[:2]:
            log.write(record)
    write_part(tmp_path, RECORDS[2:], read_records(tmp_path, 2))
    assert [step for step, _ in sent_rows(tmp_path)[1]] == [1, 2, 3, 4, 5]


@pytest.mark.stress
def test_what_a_board_did_not_get_is_sent_by_the_next_part(tmp_path, capsys):
    """It had failed, and then it was left out."""
    board = WandbBoard(tmp_path, "owner/project", {"seed": 0})
    with MetricsLog(tmp_path, (), [board]) as log:
        for record in RECORDS[:2]:
            log.write(record)
        board._run.finish()
        log.write(RECORDS[2])
    assert "goes on without it" in capsys.readouterr().err
    with MetricsLog(tmp_path, read_records(tmp_path, 3)) as log:
        log.write(RECORDS[3])
    write_part(tmp_path, RECORDS[4:], read_records(tmp_path, 4))
    assert [step for step, _ in sent_rows(tmp_path)[1]] == [1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "wandb.json").read_text())["sent"] == 5


@pytest.mark.stress
def test_another_project_and_one_that_could_not_be_reached_get_all_records(tmp_path, monkeypatch):
    import wandb

    def fail(**_):
        raise wandb.Error("no key")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no key"):
        patch.setattr(wandb, "init", fail)
        WandbBoard(tmp_path, "owner/project", {})
    assert not (tmp_path / "wandb.json").exists()
    write_part(tmp_path, RECORDS[:2])
    monkeypatch.setattr(wandb_board, "secrets", type("", (), {"token_hex": lambda n: "other"}))
    board = WandbBoard(tmp_path, "owner/second", {}, read_records(tmp_path, 2))
    board.close()
    assert json.loads((tmp_path / "wandb.json").read_text())["project"] == "owner/second"
    assert [step for step, _ in sent_rows(tmp_path)[1]] == [1, 2, 1, 2]


@pytest.mark.stress
def test_a_run_goes_on_where_the_board_fails(tmp_path, capsys):
    board = WandbBoard(tmp_path, "project", {})
    with MetricsLog(tmp_path, (), [board]) as log:
        board._run.finish()
        for record in RECORDS:
            log.write(record)
    assert len(read_records(tmp_path, 9)) == 5
    assert capsys.readouterr().err.count("goes on without it") == 1


class Failing:
    """A run at W&B that takes no data and does not end."""

    def __init__(self, error):
        self.error = error

    def log(self, _):
        pass

    def finish(self):
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), TimeoutError(), KeyError(1)])
def test_a_board_that_cannot_be_closed_does_not_end_the_run(tmp_path, capsys, error):
    board = object.__new__(WandbBoard)
    board._run, board._sent = Failing(error), set()
    board._facts, board._place, board._path = {"sent": 0}, 0, tmp_path / "wandb.json"
    with MetricsLog(tmp_path, (), [board]) as log:
        for record in RECORDS:
            log.write(record)
    assert "W&B has failed (" in capsys.readouterr().err


def test_a_missing_package_is_refused_where_it_is_needed(monkeypatch):
    check_installed("project")
    for version in ((0, 0), (0, 26)):
        monkeypatch.setattr(wandb_board, "installed_version", lambda version=version: version)
        check_installed("")
        with pytest.raises(ValueError, match=r"'p' needs the package wandb, 0.27 or newer: pip"):
            check_installed("p")
