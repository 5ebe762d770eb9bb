"""--resume: a run that crashed, was damaged or moved continues, or says why it cannot."""

import json
import shutil

import pytest
from ml_collections import ConfigDict

from sequencematch.cli import resume, training
from sequencematch.storage.provenance import provenance
from sequencematch.train.optimizer import learning_rate
from tests.command_line.command import (
    PREVIOUS_SAVE,
    READING_MODES,
    SAVE_EVERY,
    assert_same_run,
    event_at_step,
    read_json,
    records,
    run_command,
)
from tests.marks import stress
from tests.train.runs import STEPS, Crash, crash


def test_resumed_run_equals_the_uninterrupted_one(crashed_run, finished_run, tmp_path):
    folder = shutil.copytree(crashed_run, tmp_path / "run")
    assert len(records(folder / "metrics.jsonl")) == SAVE_EVERY + 2 + 1
    assert run_command(f"--workdir={folder}", "--resume") == 0
    assert_same_run(folder, finished_run)


@pytest.mark.stress
@pytest.mark.parametrize(
    "before",
    ["no folder", "a run without a checkpoint", "a run that saves later"],
)
def test_resuming_without_a_checkpoint_starts_at_step_0(
    tiny_flags, finished_run, tmp_path, before, capfd
):
    folder = tmp_path / "run"
    if before != "no folder":
        folder.mkdir()
    if before == "a run without a checkpoint":
        shutil.copy(finished_run / "config.json", folder)
        lines = (finished_run / "metrics.jsonl").open()
        lines = [line for line in lines if json.loads(line)["step"] <= 2 * SAVE_EVERY]
        (folder / "metrics.jsonl").write_text("".join(lines))
    if before == "a run that saves later":
        later = read_json(finished_run / "config.json")
        later["config"]["checkpoint"]["every"] = 10 * SAVE_EVERY
        (folder / "config.json").write_text(json.dumps(later))
        shutil.copy(finished_run / "metrics.jsonl", folder)
    assert run_command(*tiny_flags, f"--workdir={folder}", "--resume") == 0
    assert_same_run(folder, finished_run)
    assert ("no checkpoint in" in capfd.readouterr().err) == (before.startswith("a run"))


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("mode", [["--resume"], ["--resume", "--dry_run"]])
def test_run_whose_checkpoints_are_gone_is_not_started_over(
    assert_refused, finished_run, crashed_run, tmp_path, crashed, mode
):
    folder = shutil.copytree(crashed_run if crashed else finished_run, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    assert_refused(["has saved checkpoints", "gone"], f"--workdir={folder}", *mode)


@pytest.mark.parametrize("mode", [["--resume"], ["--resume", "--dry_run"]])
def test_damaged_metrics_are_refused_with_the_line_number(
    assert_refused, crashed_run, tmp_path, mode
):
    folder = shutil.copytree(crashed_run, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([lines[0], "{\n", *lines[2:]]))
    assert_refused([f"{folder / 'metrics.jsonl'}:2 is damaged"], f"--workdir={folder}", *mode)


@pytest.mark.parametrize("mode", [stress(["--resume"]), ["--resume", "--dry_run"]])
def test_lost_metrics_are_reported(crashed_run, tmp_path, capfd, mode):
    folder = shutil.copytree(crashed_run, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[1:]))
    assert run_command(f"--workdir={folder}", *mode) == 0
    assert f"metrics.jsonl has {SAVE_EVERY - 1} of {SAVE_EVERY} records" in capfd.readouterr().err


def test_damaged_checkpoint_is_moved_away_and_the_run_is_the_same(finished_run, tmp_path, capfd):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    newest = folder / "checkpoints" / str(STEPS)
    for file in newest.glob("state/**/d/*"):
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 4  # one bit
        file.write_bytes(raw)
    assert run_command(f"--workdir={folder}", "--resume") == 0
    printed = capfd.readouterr()
    assert f"checkpoint {newest} is damaged" in printed.err
    assert f"falling back to the one of step {PREVIOUS_SAVE}" in printed.err
    assert f"{folder / 'damaged' / str(STEPS)}/" in printed.out
    assert_same_run(folder, finished_run)
    assert newest.is_dir() and (folder / "damaged" / str(STEPS)).is_dir()


@pytest.mark.parametrize("mode", [*READING_MODES, ["--resume"]])
def test_run_of_another_version_is_refused(
    assert_refused, finished_run, tmp_path, monkeypatch, mode
):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    restore = training.Checkpoints.restore

    def restore_older(self, like, step):
        found = restore(self, like, step)
        return found._replace(facts={k: x for k, x in found.facts.items() if k != "records"})

    monkeypatch.setattr(training.Checkpoints, "restore", restore_older)
    assert_refused(["another version", "records"], f"--workdir={folder}", *mode)


@pytest.mark.stress
def test_change_of_code_is_reported_and_recorded(crashed_run, tmp_path, monkeypatch, capfd):
    folder = shutil.copytree(crashed_run, tmp_path / "run")
    another = {**provenance(), "revision": "another"}
    monkeypatch.setattr(resume, "provenance", lambda: another)
    assert run_command(f"--workdir={folder}", "--resume") == 0
    error = capfd.readouterr().err
    assert "saved in another environment (revision " in error and "-> another)" in error
    summary = read_json(folder / "summary.json")
    assert summary["revision"] == "another"
    assert summary["earlier"] == [{**provenance(), "mesh": "1 x 1"}]
    monkeypatch.undo()
    assert run_command(f"--workdir={folder}", "--mode=evaluate") == 0
    again = read_json(folder / "summary.json")
    assert again["revision"] == "another" and again["evaluated_by"] == dict(provenance())
    assert run_command(f"--workdir={folder}", "--resume") == 0  # done: nothing is trained
    assert read_json(folder / "summary.json")["revision"] == "another"


@pytest.mark.stress
def test_run_can_be_resumed_on_other_devices(
    tiny_flags, crashed_run, finished_run, tmp_path, capfd
):
    folder = shutil.copytree(crashed_run, tmp_path / "run")
    assert run_command(*tiny_flags, f"--workdir={folder}", "--resume", "--config.mesh.data=2") == 0
    assert read_json(folder / "config.json")["config"]["mesh"]["data"] == 2
    assert "(mesh 1 x 1 -> 2 x 1)" in capfd.readouterr().err
    summary = read_json(folder / "summary.json")
    assert (summary["mesh"], summary["earlier"][0]["mesh"]) == ("2 x 1", "1 x 1")
    resumed, uninterrupted = (
        [r["loss"] for r in records(f / "metrics.jsonl") if "loss" in r]
        for f in (folder, finished_run)
    )
    assert resumed == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.stress
@pytest.mark.exhaustive
def test_changed_data_are_refused(tiny_flags, assert_refused, tmp_path, pairs_file):
    """One more line would reorder all examples, and one more letter would renumber all tokens."""
    words, folder = tmp_path / "words.jsonl", tmp_path / "run"
    shutil.copy(pairs_file, words)
    with event_at_step(SAVE_EVERY + 1, crash), pytest.raises(Crash):
        run_command(*tiny_flags, f"--config.data.path={words}", f"--workdir={folder}")
    for line in ('{"prompt": "dd>", "completion": "dd"}', '{"prompt": "z>", "completion": "z"}'):
        words.write_text(pairs_file.read_text() + "\n" + line)
        assert run_command(f"--workdir={folder}", *READING_MODES[1]) == 0  # needs no data
        for mode in (["--resume"], ["--resume", "--dry_run"]):
            assert_refused([f"the data of the run in {folder}"], f"--workdir={folder}", *mode)
    record = read_json(folder / "config.json")
    del record["checksum"]  # the checkpoint has it, too
    (folder / "config.json").write_text(json.dumps(record))
    words.write_text(pairs_file.read_text() + '\n{"prompt": "dd>", "completion": "dd"}')
    for mode in (["--resume"], ["--resume", "--dry_run"]):
        assert_refused([f"the data of the run in {folder}"], f"--workdir={folder}", *mode)
    shutil.copy(pairs_file, words)
    assert run_command(f"--workdir={folder}", "--mode=evaluate") == 0


def test_time_continues_from_the_last_record(finished_run, tmp_path, monkeypatch):
    """The last validation ran after its step was saved, so the checkpoint has an earlier time."""
    folder, seconds = shutil.copytree(finished_run, tmp_path / "run"), []
    find_starting_point = training.find_starting_point

    def note_seconds(*args):
        seconds.append(find_starting_point(*args).seconds)
        return find_starting_point(*args)

    monkeypatch.setattr(training, "find_starting_point", note_seconds)
    assert run_command(f"--workdir={folder}", "--resume") == 0
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "validation" and seconds == [last["seconds"]]


@pytest.mark.stress
@pytest.mark.exhaustive
def test_run_with_more_steps_continues_on_the_longer_schedule(
    tiny_flags, finished_run, tmp_path, capfd
):
    folder, steps = shutil.copytree(finished_run, tmp_path / "run"), STEPS + 4
    longer = [f"--workdir={folder}", "--resume", f"--config.train.steps={steps}"]
    assert run_command(*tiny_flags, *longer) == 0
    said = capfd.readouterr().err
    assert f"raised from {STEPS} to {steps}: after step {STEPS} the learning rate goes from" in said
    assert read_json(folder / "summary.json")["steps"] == steps
    found = {r["step"]: r for r in records(folder / "metrics.jsonl") if r["kind"] == "train"}
    config = read_json(folder / "config.json")["config"]
    for step in (STEPS + 1, steps):
        # Before step n the optimiser has counted n - 1.
        optimizer = ConfigDict(config["optimizer"])
        rate = learning_rate(optimizer, steps, optimizer.learning_rate)(step - 1)
        assert found[step]["learning_rate"] == pytest.approx(float(rate))


def test_run_cannot_become_shorter(tiny_flags, finished_run, assert_refused):
    words = ["config.train.steps=20", f"has {STEPS}", "raised"]
    flags = [f"--workdir={finished_run}", "--resume", "--config.train.steps=20"]
    assert_refused(words, *tiny_flags, *flags, unchanged=[finished_run])


@pytest.mark.stress
def test_data_may_lie_elsewhere_but_must_be_the_same(
    crashed_run, finished_run, pairs_file, tmp_path, assert_refused
):
    """A renamed file is not another configuration; other data are, also before the first save."""
    folder, moved = shutil.copytree(crashed_run, tmp_path / "run"), tmp_path / "moved.jsonl"
    lines = pairs_file.read_text().splitlines()
    moved.write_text(
        "\n".join([*lines[1:], lines[0].replace('"completion": "', '"completion": "d')])
    )
    flags = [f"--workdir={folder}", "--resume", f"--config.data.path={moved}"]
    assert_refused(["are not those that it was trained on"], *flags)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for name in ("config.json", "lock"):
        shutil.copy(folder / name, fresh)
    assert_refused(["are not those"], f"--workdir={fresh}", *flags[1:])
    shutil.copy(pairs_file, moved)
    assert run_command(*flags) == 0
    assert read_json(folder / "config.json")["config"]["data"]["path"] == str(moved)
    assert records(folder / "metrics.jsonl") == records(finished_run / "metrics.jsonl")


@pytest.mark.stress
@pytest.mark.exhaustive
def test_sizes_that_are_0_are_what_the_data_take_and_stay(tiny_flags, tmp_path, capfd):
    folder = tmp_path / "run"
    sizes = {"prompt_slots": 0, "max_actions": 0, "evaluate.max_actions": 0, "train.steps": 5}
    flags = [*tiny_flags, *(f"--config.{key}={value}" for key, value in sizes.items())]
    assert run_command(*flags, f"--workdir={folder}") == 0, capfd.readouterr().err
    config = read_json(folder / "config.json")["config"]
    assert config["prompt_slots"] == 5  # <bos>, three letters and >
    assert (
        config["evaluate"]["max_actions"] >= config["max_actions"] >= 4
    )  # three letters and <eos>
    assert run_command(*flags, f"--workdir={folder}", "--resume") == 0, capfd.readouterr().err
    assert run_command(*flags, f"--workdir={folder}", "--mode=evaluate") == 0
