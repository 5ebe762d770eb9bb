"""A run's folder: one process at a time, files whole or not at all, nothing of others touched."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import pytest

from sequencematch.cli import workdir
from sequencematch.setup.defaults import defaults
from tests.hindrances import nobody


def holder(folder):
    """A process that holds the folder until it is killed."""
    source = f"""
import pathlib, time
from sequencematch.cli import workdir
with workdir.lock(pathlib.Path({str(folder)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", source], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_two_processes_cannot_share_a_folder_and_a_dead_one_holds_none(tmp_path):
    process = holder(tmp_path)
    with pytest.raises(ValueError) as raised, workdir.lock(tmp_path):
        pytest.fail("two hold it")
    message = str(raised.value)
    assert message.startswith(f"--workdir={tmp_path} is in use by process {process.pid} on ")
    assert len(message.splitlines()) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    with workdir.lock(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / "lock").read_text()
    assert (tmp_path / "lock").read_text() == ""


def test_a_folder_is_free_again_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), workdir.lock(tmp_path):
            raise KeyError


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    workdir.write_json(path, {"a": 1})
    before = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    for module, call in ((os, "fsync"), (pathlib.Path, "replace")):
        with monkeypatch.context() as patch, pytest.raises(OSError, match=f"{path} cannot.*space"):
            patch.setattr(module, call, full)
            workdir.write_json(path, {"a": 2})
        assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1
    workdir.write_json(path, {"a": 3})
    assert path.read_text() == before.replace("1", "3")


@pytest.mark.parametrize(
    "config", [[[None, None]], [[False, None], {"": None, "0": None}], [], "x", 3, None]
)
def test_a_record_whose_configuration_is_none_is_damaged(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps({"name": "x", "config": config}))
    with pytest.raises(ValueError, match="config.json is damaged .its configuration is no object"):
        workdir.read(tmp_path)


@pytest.mark.parametrize("key", ["__class__", "__init__", "a.b"])
def test_a_key_that_no_configuration_can_have_is_damage(tmp_path, key):
    (tmp_path / "config.json").write_text(json.dumps({"name": "x", "config": {key: 1}}))
    with pytest.raises(ValueError, match="config.json is damaged"):
        workdir.read(tmp_path)


def test_nothing_is_written_through_a_link_that_came_with_a_folder(tmp_path):
    folder, mine = tmp_path / "run", tmp_path / "mine.txt"
    folder.mkdir()
    mine.write_text("mine")
    for name in ("lock", "summary.json.tmp", "summary.json"):
        (folder / name).symlink_to(mine)
    with pytest.raises(OSError, match="lock"), workdir.lock(folder):
        pytest.fail("locked something else")
    workdir.write_json(folder / "summary.json", {"a": 1})
    assert mine.read_text() == "mine"
    assert {path.name for path in folder.iterdir() if path.is_symlink()} == {"lock"}
    assert json.loads((folder / "summary.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("name", ["checkpoints", "damaged", "tensorboard"])
def test_a_folder_that_leads_elsewhere_is_not_written_into(tmp_path, name):
    config, folder = defaults(), tmp_path / "run"
    (tmp_path / "mine").mkdir()
    folder.mkdir()
    workdir.write_json(folder / "config.json", {"name": "x", "config": workdir.to_json(config)})
    assert workdir.check_free(folder, config, resume=True) is True
    (folder / name).symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match=f"^{folder / name} is a link, .* in its place"):
        workdir.check_free(folder, config, resume=True)


@pytest.mark.parametrize("place", ["theirs", "theirs/new/deep", "hidden/new", "file/new"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(place):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        root, first = pathlib.Path(name), place.split("/")[0]
        root.chmod(0o755)
        (root / "theirs").mkdir(mode=0o555)
        (root / "hidden").mkdir(mode=0)
        (root / "file").touch()
        refused = f"^--workdir={root / place} cannot be written: {root / first} does not let you$"
        with nobody(), pytest.raises(ValueError, match=refused):
            workdir.check_free(root / place, defaults(), resume=False)
        (root / "hidden").chmod(0o755)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", [[], ["lock"], ["lock", "config.json.tmp"]])
def test_what_a_kill_leaves_before_a_run_is_written_down_is_no_run(tmp_path, left, resume):
    for name in left:
        (tmp_path / name).write_text("half")
    config = defaults()
    assert workdir.check_free(tmp_path, config, resume) is False
    assert workdir.check_free(tmp_path / "new", config, resume) is False
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        workdir.check_free(tmp_path, config, resume)


def test_a_run_may_go_on_elsewhere_and_keep_more_but_is_otherwise_the_same(tmp_path):
    config = defaults()
    workdir.write_json(tmp_path / "config.json", {"name": "x", "config": workdir.to_json(config)})
    config.mesh.data, config.checkpoint.keep, config.evaluate.rows = 4, 9, 8
    assert workdir.check_free(tmp_path, config, resume=True) is True
    config.train.batch_size = 128
    with pytest.raises(ValueError, match="train.batch_size: 64 -> 128"):
        workdir.check_free(tmp_path, config, resume=True)


@pytest.mark.parametrize(
    "printed", ["print('x' * 10_000)", "print('x')", "Console().print('x' * 10_000)"]
)
@pytest.mark.parametrize("full", [False, True])
def test_nobody_who_reads_and_a_full_disk_are_no_failure(printed, full):
    source = f"""
from rich.console import Console
import sys
from sequencematch.storage.console import ignore_write_failures
with ignore_write_failures(sys.stdout):
    {printed}
"""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", source]
    env = os.environ | {"PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as disk:
        out = disk if full else writer
        done = subprocess.run(command, env=env, stdout=out, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
