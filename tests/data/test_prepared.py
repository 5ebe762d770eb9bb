import multiprocessing
import pathlib
import random
import re
import subprocess
import sys

import pytest

from sequencematch.data import arithmetic, prepared
from tests.data.preparation import contents, data_config
from tests.storage.limits import no_file_handles


@pytest.mark.parametrize("damaged", ["*-train.array_record*", "dataset_info.json", "metadata.json"])
def test_damaged_folder_is_named_and_left_alone(tmp_path, damaged):
    arithmetic.task(data_config(tmp_path))
    (file,) = tmp_path.rglob(damaged)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    message = (
        f"^the data in {re.escape(str(file.parent))} cannot be read .*move this folder away.*$"
    )
    with pytest.raises(OSError, match=message):
        contents(arithmetic.task(data_config(tmp_path)))
    assert file.exists()


def test_examples_are_a_sequence(task):
    train = task.splits["train"]
    assert train[-1] == train[len(train) - 1]
    assert [train[i] for i in range(len(train))] == list(train)
    with pytest.raises(IndexError):
        train[len(train)]


def test_examples_beyond_the_cache_are_read_again(task, folder, monkeypatch):
    monkeypatch.setattr(prepared, "CACHE_SIZE", 3)
    again = arithmetic.task(data_config(folder))
    assert contents(again) == contents(again) == contents(task)
    assert len(again.splits["train"].cache) == 3


def test_io_failure_is_not_reported_as_damage(tmp_path):
    """Here too many open files: the message must not advise to move the data away."""
    arithmetic.task(data_config(tmp_path))
    with (
        no_file_handles(),
        pytest.raises(OSError, match="cannot be read .*fix that and try again$"),
    ):
        contents(arithmetic.task(data_config(tmp_path)))
    assert len(contents(arithmetic.task(data_config(tmp_path)))["train"]) > 0


def test_lack_of_memory_is_not_reported_as_damage(task, folder, monkeypatch):
    def raise_memory_error(*_):
        raise MemoryError

    again = arithmetic.task(data_config(folder))
    monkeypatch.setattr(prepared.Records, "_read", raise_memory_error)
    with pytest.raises(MemoryError):
        again.splits["train"][0]


def test_full_disk_is_reported_in_one_line(tmp_path, monkeypatch):
    def fill_disk(self, **_):
        raise RuntimeError("Failed to write: No space left on device")  # as array_record does

    monkeypatch.setattr(arithmetic.Mathematics, "download_and_prepare", fill_disk)
    with pytest.raises(OSError, match=f"cannot be written to {tmp_path}.* .*No space left"):
        arithmetic.task(data_config(tmp_path))


def prepare_contents(folder):
    random.seed(0)
    return contents(arithmetic.task(data_config(folder)))


@pytest.mark.stress
def test_two_processes_can_prepare_at_once(tmp_path, task):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(prepare_contents, [tmp_path, tmp_path], chunksize=1)
    assert results == [contents(task)] * 2


def test_incomplete_files_of_a_killed_process_are_removed(tmp_path, task, monkeypatch):
    class Killed(BaseException):
        """Not an Exception, so that no clean-up of tfds runs."""

    def die_halfway(self, **_):
        incomplete = pathlib.Path(self.data_dir).parent / "incomplete.ABCDEF_1.0.0"
        incomplete.mkdir()
        (incomplete / "mathematics-test.array_record").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(arithmetic.Mathematics, "download_and_prepare", die_halfway)
        arithmetic.task(data_config(tmp_path))
    assert list(tmp_path.rglob("incomplete*"))
    assert contents(arithmetic.task(data_config(tmp_path))) == contents(task)
    assert not list(tmp_path.rglob("incomplete*"))


@pytest.mark.stress
def test_tensorflow_is_not_imported(tmp_path):
    program = (
        "import sys, types; from sequencematch.data import arithmetic; "
        f"task = arithmetic.task(types.SimpleNamespace(**{vars(data_config(tmp_path))!r})); "
        "task.splits['test'][0]; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_preparing_says_one_line_and_nothing_of_a_download(tmp_path, capsys):
    arithmetic.task(data_config(tmp_path))
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert line.startswith(f"preparing the data in {tmp_path}") and printed.err == ""
    arithmetic.task(data_config(tmp_path))
    assert capsys.readouterr().out == ""
