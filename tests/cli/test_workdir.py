"""A work directory: its lock, its config.json, and when a run may write into it."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from sequencematch.cli import workdir
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults, differences
from sequencematch.setup.newer_keys import NEWER_KEYS
from tests.storage.limits import no_root_rights


def start_holder(folder):
    """Starts a process that locks the folder and keeps the lock until it is killed."""
    source = f"""
import pathlib, time
from sequencematch.cli import workdir
with workdir.lock(pathlib.Path({str(folder)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", source], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.stress
def test_lock_excludes_other_processes_and_ends_with_its_process(tmp_path):
    process = start_holder(tmp_path)
    with pytest.raises(ValueError) as raised, workdir.lock(tmp_path):
        pytest.fail("two processes hold the lock")
    message = str(raised.value)
    assert message.startswith(f"--workdir={tmp_path} is in use by process {process.pid} on ")
    assert len(message.splitlines()) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    with workdir.lock(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / "lock").read_text()
    assert (tmp_path / "lock").read_text() == ""


def test_lock_is_released_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), workdir.lock(tmp_path):
            raise KeyError


@pytest.mark.parametrize(
    "config", [[[None, None]], [[False, None], {"": None, "0": None}], [], "x", 3, None]
)
def test_config_json_without_an_object_is_damaged(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps({"name": "x", "config": config}))
    with pytest.raises(
        ValueError, match="config.json is damaged .its configuration is not an object"
    ):
        workdir.read_config(tmp_path)


def test_config_json_of_an_older_version_is_opened(tmp_path):
    """Keys that it lacks have the values that it was made with; all others stay."""
    path = shutil.copy(
        pathlib.Path(__file__).parent / "config_of_0_1.json", tmp_path / "config.json"
    )
    config = workdir.read_config(tmp_path)["config"]
    check_config(config)
    changed = differences(config, json.loads(path.read_text())["config"])
    assert {line.split(":")[0] for line in changed} == set(NEWER_KEYS)
    workdir.check_same(tmp_path, config, free=())
    config.data.split = "twins"
    with pytest.raises(ValueError, match="data.split: 'prompt' -> 'twins'"):
        workdir.check_same(tmp_path, config, free=("evaluate.",))


def test_checkpoints_of_another_format_are_refused_and_their_version_is_named(tmp_path):
    """Before 0.2.0 each layer had arrays of its own, and no format was saved."""
    source = pathlib.Path(__file__).parent / "config_of_0_1.json"
    path = shutil.copy(source, tmp_path / "config.json")
    record = json.loads(path.read_text()) | {
        "versions": {"sequencematch": "0.1.0"},
        "revision": "a1b2",
    }
    path.write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match=r"format 1, .* reads format 2: .*\(0.1.0, a1b2\)"
    ) as raised:
        workdir.check_format(tmp_path, 2)
    assert "\n" not in str(raised.value)
    path.write_text(json.dumps(record | {"format": 2}))
    workdir.check_format(tmp_path, 2)


@pytest.mark.parametrize("key", ["__class__", "__init__", "a.b"])
def test_config_json_with_an_impossible_key_is_damaged(tmp_path, key):
    (tmp_path / "config.json").write_text(json.dumps({"name": "x", "config": {key: 1}}))
    with pytest.raises(ValueError, match="config.json is damaged"):
        workdir.read_config(tmp_path)


def test_no_file_is_written_through_a_link(tmp_path):
    folder, mine = tmp_path / "run", tmp_path / "mine.txt"
    folder.mkdir()
    mine.write_text("mine")
    for name in ("lock", "summary.json.tmp", "summary.json"):
        (folder / name).symlink_to(mine)
    with pytest.raises(OSError, match="lock"), workdir.lock(folder):
        pytest.fail("the target of the link was locked")
    workdir.write_json(folder / "summary.json", {"a": 1})
    assert mine.read_text() == "mine"
    assert {path.name for path in folder.iterdir() if path.is_symlink()} == {"lock"}
    assert json.loads((folder / "summary.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("name", ["checkpoints", "damaged", "tensorboard"])
def test_subfolder_that_is_a_link_is_refused(tmp_path, name):
    config, folder = defaults(), tmp_path / "run"
    (tmp_path / "mine").mkdir()
    folder.mkdir()
    workdir.write_json(folder / "config.json", {"name": "x", "config": workdir.to_json(config)})
    assert workdir.check_free(folder, config, resume=True) is True
    (folder / name).symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match=f"^{folder / name} is a symbolic link, .*: replace it"):
        workdir.check_free(folder, config, resume=True)


@pytest.mark.parametrize("path", ["theirs", "theirs/new/deep", "hidden/new", "file/new"])
def test_folder_that_cannot_be_written_is_refused(path):
    with tempfile.TemporaryDirectory() as name:  # other users cannot enter pytest's folders
        root, first = pathlib.Path(name), path.split("/")[0]
        root.chmod(0o755)
        (root / "theirs").mkdir(mode=0o555)
        (root / "hidden").mkdir(mode=0)
        (root / "file").touch()
        why = f"{root / first} is not a folder that you may write into"
        message = f"^--workdir={root / path} cannot be written: {why}$"
        with no_root_rights(), pytest.raises(ValueError, match=message):
            workdir.check_free(root / path, defaults(), resume=False)
        (root / "hidden").chmod(0o755)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("leftovers", [[], ["lock"], ["lock", "config.json.tmp"]])
def test_leftovers_of_a_run_killed_before_config_json_are_no_run(tmp_path, leftovers, resume):
    for name in leftovers:
        (tmp_path / name).write_text("half")
    config = defaults()
    assert workdir.check_free(tmp_path, config, resume) is False
    assert workdir.check_free(tmp_path / "new", config, resume) is False
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        workdir.check_free(tmp_path, config, resume)


def test_what_a_run_has_settled_stays_where_a_configuration_leaves_it_open(tmp_path):
    """A run that began on a CPU goes on in float32 on a GPU."""
    settled, config = defaults(), defaults()
    settled.update(prompt_slots=7, max_actions=9)
    settled.model.dtype = "float32"
    config.prompt_slots, config.model.dtype = 0, "auto"
    kept = config.max_actions
    workdir.take_settled(tmp_path, config)  # there is no run yet
    assert (config.prompt_slots, config.model.dtype) == (0, "auto")
    record = {"name": "x", "config": workdir.to_json(settled)}
    workdir.write_json(tmp_path / "config.json", record)
    workdir.take_settled(tmp_path, config)
    assert (config.prompt_slots, config.model.dtype, config.max_actions) == (7, "float32", kept)


def test_a_run_asks_its_own_questions_and_no_others(tmp_path):
    settled, config = defaults(), defaults()
    settled.data.corpus = "files:*.txt"
    record = {"name": "x", "config": workdir.to_json(settled)}
    workdir.write_json(tmp_path / "config.json", record)
    workdir.check_own_questions(tmp_path, config)  # what nobody has named
    config.data.corpus = "files:*.txt"
    workdir.check_own_questions(tmp_path, config)
    config.data.corpus = "files:*.md"
    with pytest.raises(ValueError, match=r"config\.data\.corpus='files:\*\.md': .* --data=FILE"):
        workdir.check_own_questions(tmp_path, config)


def test_resuming_may_change_devices_and_checkpoints_but_not_training(tmp_path):
    config = defaults()
    workdir.write_json(tmp_path / "config.json", {"name": "x", "config": workdir.to_json(config)})
    config.mesh.data, config.checkpoint.keep, config.evaluate.rows = 4, 9, 8
    assert workdir.check_free(tmp_path, config, resume=True) is True
    config.train.batch_size = 128
    with pytest.raises(ValueError, match="train.batch_size: 64 -> 128"):
        workdir.check_free(tmp_path, config, resume=True)


def test_data_may_lie_elsewhere(tmp_path):
    config = defaults()
    workdir.write_json(tmp_path / "config.json", {"name": "x", "config": workdir.to_json(config)})
    config.data.path, config.data.dir = "/new/file.jsonl", "/new"
    for free in (workdir.FREE_TO_RESUME, workdir.FREE_TO_EVALUATE):
        workdir.check_same(tmp_path, config, free)
    config.model.path = "/a/model"
    with pytest.raises(ValueError, match="model.path: '' -> '/a/model'"):  # the run has none
        workdir.check_same(tmp_path, config, workdir.FREE_TO_RESUME)
    config.model.path, config.data.seed = "", 5
    with pytest.raises(ValueError, match=r"another configuration \(data.seed: 0 -> 5\)"):
        workdir.check_same(tmp_path, config, workdir.FREE_TO_RESUME)


def test_a_run_made_with_a_key_that_is_gone_is_refused_and_its_version_named(tmp_path):
    config = workdir.to_json(defaults())
    config["data"]["novel"] = [3]
    record = {"name": "x", "config": config, "versions": {"sequencematch": "9.1"}}
    workdir.write_json(tmp_path / "config.json", record)
    with pytest.raises(
        ValueError, match=r"data.novel=\(?\[?3.*does not have.* \(9.1\)$"
    ) as refusal:
        workdir.read_config(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1
