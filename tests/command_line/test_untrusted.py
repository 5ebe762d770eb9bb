"""Work directories from other people: nothing in them runs code or leads out of the folder."""

import json
import shutil

from tests.command_line.command import READING_MODES, read_json, run_command


def test_name_in_config_json_leads_nowhere(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "runs" / "run")
    record = read_json(folder / "config.json")
    evil = ["../../evil", str(tmp_path / "evil"), "<script>alert(1)</script>"]
    for name, mode in zip(evil, ("--resume", "--mode=evaluate", "--resume"), strict=True):
        (folder / "config.json").write_text(json.dumps(record | {"name": name}))
        assert run_command(f"--workdir={folder}", mode) == 0
        assert "<script>alert" not in (folder / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]


def test_config_json_runs_no_code_and_prepares_no_data(
    assert_refused, finished_run, tmp_path, monkeypatch
):
    """A work directory may come from somebody else; on the command line the same is allowed."""
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "payload.py").write_text("raise AssertionError('code was run')")
    monkeypatch.syspath_prepend(tmp_path)
    record, elsewhere = read_json(folder / "config.json"), tmp_path / "elsewhere"
    (elsewhere / "mathematics").mkdir(parents=True)  # other data are prepared there already
    (elsewhere / "math_dataset" / "evil" / "1.0.0").mkdir(parents=True)
    data = record["config"]["data"] | {"dir": str(elsewhere), "bases": []}
    evil = data | {"source": "tfds", "module": "evil"}
    for changes, words in (
        ({"task": "payload:task"}, ["Python code", "task='payload:task'", "--config=FILE"]),
        ({"task": "arithmetic", "data": data}, ["data.dir=", "--config=FILE"]),
        ({"task": "arithmetic", "data": evil}, ["data.module='evil' does not exist"]),
    ):
        changed_record = record | {"config": record["config"] | changes}
        (folder / "config.json").write_text(json.dumps(changed_record))
        # Reading needs no data, unless the folder keeps no task.
        (folder / "task.json").unlink(missing_ok=True)
        for mode in (*READING_MODES, ["--resume"], ["--resume", "--dry_run"]):
            assert_refused(words, f"--workdir={folder}", *mode)


def test_a_folder_that_keeps_its_task_runs_no_code_either(
    assert_refused, finished_run, tmp_path, monkeypatch
):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "payload.py").write_text("raise AssertionError('code was run')")
    monkeypatch.syspath_prepend(tmp_path)
    record = read_json(folder / "config.json")
    record["config"]["task"] = "payload:task"
    (folder / "config.json").write_text(json.dumps(record))
    for mode in READING_MODES:
        assert_refused(["Python code"], f"--workdir={folder}", *mode)
