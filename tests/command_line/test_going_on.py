"""Runs that are cut, left, damaged or moved go on, or say why not."""

import contextlib
import json
import os
import resource
import shutil
import signal

import jax
import numpy as np
import pytest

from sequencematch import main as main_module
from sequencematch.cli import results, resume, training, workdir
from sequencematch.storage.provenance import provenance
from sequencematch.train.stop_requests import Interrupted
from tests.command_line.command import (
    LAST,
    READING,
    SAVED,
    TINY,
    command,
    contents,
    happening,
    read,
    records,
    same,
)
from tests.train.runs import CLONING, STEPS, Crash, Plain, crash


def test_a_resumed_run_equals_the_uninterrupted_one(interrupted, finished, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    assert len(records(folder / "metrics.jsonl")) == SAVED + 2 + 1
    assert command(f"--workdir={folder}", "--resume") == 0
    same(folder, finished)


@pytest.mark.parametrize(
    "before", ["no folder", "a run without a checkpoint", "a run that was to save later"]
)
def test_resuming_what_has_not_begun_begins_it(tiny, finished, tmp_path, before, capfd):
    folder = tmp_path / "run"
    if before != "no folder":
        folder.mkdir()
    if before == "a run without a checkpoint":
        shutil.copy(finished / "config.json", folder)
        begun = [
            r for r in (finished / "metrics.jsonl").open() if json.loads(r)["step"] <= 2 * SAVED
        ]
        (folder / "metrics.jsonl").write_text("".join(begun))
    if before == "a run that was to save later":
        later = read(finished / "config.json")
        later["config"]["checkpoint"]["every"] = 10 * SAVED
        (folder / "config.json").write_text(json.dumps(later))
        shutil.copy(finished / "metrics.jsonl", folder)
    assert command(*tiny, f"--workdir={folder}", "--resume") == 0
    same(folder, finished)
    assert ("no checkpoint in" in capfd.readouterr().err) == (before.startswith("a run"))


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("mode", [["--resume"], ["--resume", "--dry_run"]])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(
    refused, finished, interrupted, tmp_path, cut, mode
):
    folder = shutil.copytree(interrupted if cut else finished, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    refused(["has saved checkpoints", "gone"], f"--workdir={folder}", *mode)


@pytest.mark.parametrize("mode", [["--resume"], ["--resume", "--dry_run"]])
def test_damaged_metrics_are_named_with_their_line(refused, interrupted, tmp_path, mode):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([lines[0], "{\n", *lines[2:]]))
    refused([f"{folder / 'metrics.jsonl'}:2 is damaged"], f"--workdir={folder}", *mode)


def test_asked_to_leave_it_says_how_to_go_on_and_goes_on(tiny, finished, tmp_path, capfd):
    folder = tmp_path / "run"
    with happening(SAVED, lambda: signal.raise_signal(signal.SIGTERM)):
        assert command(*tiny, f"--workdir={folder}") == 75
    heard, left = capfd.readouterr().err.splitlines()
    assert heard == "sequencematch: SIGTERM: saving, then leaving"
    assert left == "sequencematch: left on SIGTERM: go on with --resume"
    assert not (folder / "summary.json").exists()
    assert [p.name for p in (folder / "checkpoints").iterdir() if p.name == str(SAVED + 1)]
    assert command(f"--workdir={folder}", "--resume") == 0
    same(folder, finished)


@pytest.mark.parametrize("place", ["build", "validation_figures", "evaluate_test_set"])
def test_it_can_be_left_while_data_are_prepared_and_in_both_evaluations(
    tiny, finished, tmp_path, place, monkeypatch, capfd
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        module = main_module if place == "build" else results
        patch.setattr(module, place, lambda *_: signal.raise_signal(signal.SIGINT))
        assert command(*tiny, f"--workdir={folder}") == 75
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert folder.exists() == (place != "build")
    assert command(*tiny, f"--workdir={folder}", "--resume") == 0
    same(folder, finished)


def test_a_request_that_was_lost_is_heard_between_answers(finished, tmp_path, monkeypatch):
    """Where Python drops what a signal raises, as in a finaliser, long work asks now and then."""
    folder, make = shutil.copytree(finished, tmp_path / "run"), results.make_returns
    (folder / "summary.json").unlink()

    def lost(run):
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        return make(run)

    monkeypatch.setattr(results, "make_returns", lost)
    assert command(f"--workdir={folder}", "--mode=evaluate") == 75
    assert not (folder / "summary.json").exists()


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x")]
)
def test_no_memory_left_stops_the_run_with_one_line(
    tiny, finished, tmp_path, monkeypatch, capfd, error
):
    def without(*_):
        raise error

    folder = tmp_path / "run"
    with happening(SAVED + 1, without):
        assert command(*tiny, f"--workdir={folder}") == 3
    said = capfd.readouterr().err
    assert said.startswith("sequencematch: stopped: no memory is left; ")
    assert "go on with --resume" in said and len(said.splitlines()) == 1
    assert command(f"--workdir={folder}", "--resume") == 0
    same(folder, finished)


def test_evaluating_after_falling_back_tells_of_the_checkpoint_that_it_evaluates(
    finished, tmp_path, capfd
):
    """Which is lost on nobody: what was said of the later one is not written over."""
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "checkpoints" / str(STEPS) / "meta" / "metadata").unlink()
    before = contents(tmp_path)
    assert command(f"--workdir={folder}", "--mode=evaluate") == 2
    damage, why = capfd.readouterr().err.splitlines()
    assert "is damaged" in damage and f"{folder / 'summary.json'} tells of step {STEPS}" in why
    assert f"of step {LAST}: go on with --resume" in why and contents(tmp_path) == before
    (folder / "summary.json").unlink()
    assert command(f"--workdir={folder}", "--mode=evaluate") == 0
    assert f"Judged after {LAST} of {STEPS} steps" in (folder / "report.html").read_text()
    summary = read(folder / "summary.json")
    slots = TINY["prompt_slots"] + TINY["max_actions"]
    assert summary["steps"] == LAST
    assert summary["tokens"] == slots * 8 * (CLONING + 2 * (LAST - CLONING))


@pytest.mark.parametrize("mode", [*READING, ["--resume"]])
def test_a_run_of_another_version_is_refused(refused, finished, tmp_path, monkeypatch, mode):
    folder = shutil.copytree(finished, tmp_path / "run")
    restore = training.Checkpoints.restore

    def older(self, like):
        found = restore(self, like)
        return found._replace(facts={k: x for k, x in found.facts.items() if k != "records"})

    monkeypatch.setattr(training.Checkpoints, "restore", older)
    refused(["another version", "records"], f"--workdir={folder}", *mode)


@pytest.mark.parametrize("mode", [["--resume"], ["--resume", "--dry_run"]])
def test_lost_metrics_are_said(interrupted, tmp_path, capfd, mode):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[1:]))
    assert command(f"--workdir={folder}", *mode) == 0
    assert f"metrics.jsonl has {SAVED - 1} of {SAVED} records" in capfd.readouterr().err


def test_a_damaged_checkpoint_is_set_aside_and_the_run_is_the_same(finished, tmp_path, capfd):
    folder = shutil.copytree(finished, tmp_path / "run")
    newest = folder / "checkpoints" / str(STEPS)
    for file in newest.glob("state/**/d/*"):
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 4  # one bit
        file.write_bytes(raw)
    assert command(f"--workdir={folder}", "--resume") == 0
    said = capfd.readouterr()
    assert f"checkpoint {newest} is damaged" in said.err
    assert f"going back to that of step {LAST}" in said.err
    assert f"{folder / 'damaged' / str(STEPS)}/" in said.out
    same(folder, finished)
    assert newest.is_dir() and (folder / "damaged" / str(STEPS)).is_dir()


def test_other_code_is_said(interrupted, tmp_path, monkeypatch, capfd):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    another = {**provenance(), "revision": "another"}
    monkeypatch.setattr(resume, "provenance", lambda: another)
    assert command(f"--workdir={folder}", "--resume") == 0
    error = capfd.readouterr().err
    assert "saved elsewhere (revision " in error and "-> another)" in error
    summary = read(folder / "summary.json")
    assert summary["revision"] == "another"
    assert summary["earlier"] == [{**provenance(), "mesh": "1 x 1"}]
    monkeypatch.undo()
    assert command(f"--workdir={folder}", "--mode=evaluate") == 0
    again = read(folder / "summary.json")
    assert again["revision"] == "another" and again["evaluated_by"] == dict(provenance())
    assert command(f"--workdir={folder}", "--resume") == 0  # a run that is done: nothing is trained
    assert read(folder / "summary.json")["revision"] == "another"


@pytest.mark.stress
def test_a_run_may_go_on_on_other_devices(tiny, interrupted, finished, tmp_path, capfd):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    assert command(*tiny, f"--workdir={folder}", "--resume", "--config.mesh.data=2") == 0
    assert read(folder / "config.json")["config"]["mesh"]["data"] == 2
    assert "(mesh 1 x 1 -> 2 x 1)" in capfd.readouterr().err
    summary = read(folder / "summary.json")
    assert (summary["mesh"], summary["earlier"][0]["mesh"]) == ("2 x 1", "1 x 1")
    there, here = (
        [r["loss"] for r in records(f / "metrics.jsonl") if "loss" in r] for f in (folder, finished)
    )
    assert there == pytest.approx(here, rel=1e-5)


def test_time_goes_on_from_the_last_record(finished, tmp_path, monkeypatch):
    """The last look came after its step was saved."""
    folder, taken = shutil.copytree(finished, tmp_path / "run"), []
    beginning = resume.find_beginning

    def noted(*given):
        taken.append(beginning(*given).seconds)
        return beginning(*given)

    monkeypatch.setattr(resume, "find_beginning", noted)
    assert command(f"--workdir={folder}", "--resume") == 0
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "validation" and taken == [last["seconds"]]


def test_what_is_not_finite_stops_the_run_with_one_line(
    tiny, finished, tmp_path, monkeypatch, capfd
):
    def poisoned(run):
        plan = make_plan(run)
        step = plan.phases[0].step

        def bad(state, batch):
            params = jax.tree.map(lambda x: x * np.nan, state.params)
            return step(state._replace(params=params) if int(state.step) > 0 else state, batch)

        phases = [plan.phases[0]._replace(step=Plain(bad)), *plan.phases[1:]]
        return plan._replace(phases=phases, skip_nonfinite=0)

    make_plan = training.make_plan
    monkeypatch.setattr(training, "make_plan", poisoned)
    assert command(*tiny, f"--workdir={tmp_path / 'run'}") == 3
    error = capfd.readouterr().err
    assert error.startswith(
        "sequencematch: step 2: bc, loss, gradient_norm, update_norm not finite"
    )
    assert len(error.splitlines()) == 1
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert command(f"--workdir={tmp_path / 'run'}", "--resume") == 3


def test_a_full_disk_stops_the_run_with_one_line(tiny, finished, tmp_path, capfd):
    folder, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():  # enough is left for a step's metrics, not for a checkpoint
        most = (folder / "metrics.jsonl").stat().st_size + 3_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))

    try:
        with happening(2 * SAVED - 1, fill):
            assert command(*tiny, f"--workdir={folder}") == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capfd.readouterr().err
    assert error.startswith("sequencematch: stopped: a checkpoint could not be written")
    assert "File too large" in error
    assert "go on with --resume" in error and len(error.splitlines()) == 1
    assert command(f"--workdir={folder}", "--resume") == 0
    same(folder, finished)


def test_names_in_the_metadata_lead_nowhere(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "runs" / "run")
    record = read(folder / "config.json")
    evil = ["../../evil", str(tmp_path / "evil"), "<script>alert(1)</script>"]
    for name, mode in zip(evil, ("--resume", "--mode=evaluate", "--resume"), strict=True):
        (folder / "config.json").write_text(json.dumps(record | {"name": name}))
        assert command(f"--workdir={folder}", mode) == 0
        assert "<script>alert" not in (folder / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]


def test_a_file_of_a_run_has_no_code_run_and_no_data_made(refused, finished, tmp_path, monkeypatch):
    """What came with a folder may be somebody else's; on the command line it is one's own."""
    folder = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "payload.py").write_text("raise AssertionError('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    record, elsewhere = read(folder / "config.json"), tmp_path / "elsewhere"
    (elsewhere / "mathematics").mkdir(parents=True)  # other data were made there before
    (elsewhere / "math_dataset" / "evil" / "1.0.0").mkdir(parents=True)
    data = record["config"]["data"] | {"dir": str(elsewhere), "bases": []}
    evil = data | {"source": "tfds", "module": "evil"}
    for changes, words in (
        ({"task": "payload:task"}, ["Python code", "task='payload:task'", "--config=FILE"]),
        ({"task": "arithmetic", "data": data}, ["data.dir=", "--config=FILE"]),
        ({"task": "arithmetic", "data": evil}, ["data.module='evil' does not exist"]),
    ):
        changed = record | {"config": record["config"] | changes}
        (folder / "config.json").write_text(json.dumps(changed))
        for mode in (*READING, ["--resume"], ["--resume", "--dry_run"]):
            refused(words, f"--workdir={folder}", *mode)


def test_other_data_than_the_run_was_trained_on_are_refused(tiny, refused, tmp_path, pairs):
    """One line more would move every example to another place, and a letter more every token."""
    words, folder = tmp_path / "words.jsonl", tmp_path / "run"
    shutil.copy(pairs, words)
    with happening(SAVED + 1, crash), pytest.raises(Crash):
        command(*tiny, f"--config.data.path={words}", f"--workdir={folder}")
    for line in ('{"prompt": "dd>", "completion": "dd"}', '{"prompt": "z>", "completion": "z"}'):
        words.write_text(pairs.read_text() + "\n" + line)
        for mode in (*READING, ["--resume"], ["--resume", "--dry_run"]):
            refused([f"the data of the run in {folder}"], f"--workdir={folder}", *mode)
    record = read(folder / "config.json")
    del record["checksum"]  # the checkpoint says it, too
    (folder / "config.json").write_text(json.dumps(record))
    words.write_text(pairs.read_text() + '\n{"prompt": "dd>", "completion": "dd"}')
    for mode in (*READING, ["--resume"], ["--resume", "--dry_run"]):
        refused([f"the data of the run in {folder}"], f"--workdir={folder}", *mode)
    shutil.copy(pairs, words)
    assert command(f"--workdir={folder}", "--mode=evaluate") == 0


def test_two_runs_cannot_share_a_folder(refused, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    with workdir.lock(folder):
        for mode in (["--resume"], ["--mode=evaluate"], ["--resume", "--dry_run"]):
            refused([f"{folder} is in use by process {os.getpid()}"], f"--workdir={folder}", *mode)
    assert command(f"--workdir={folder}", "--mode=evaluate") == 0


def test_a_run_that_was_cut_can_be_evaluated(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    assert command("--mode=evaluate", f"--workdir={folder}") == 0
    assert read(folder / "summary.json")["steps"] == SAVED
    assert (folder / "report.html").is_file()
