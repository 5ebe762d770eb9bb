"""Files are written whole or not at all."""

import os
import pathlib

import pytest

from sequencematch.storage import files


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write(path, '{"a": 1}\n')
    before = path.read_text()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    for module, call in ((os, "fsync"), (pathlib.Path, "replace")):
        with monkeypatch.context() as patch, pytest.raises(OSError, match=f"{path} cannot.*space"):
            patch.setattr(module, call, fail)
            files.write(path, '{"a": 2}\n')
        assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1
    with monkeypatch.context() as patch, pytest.raises(OSError, match=f"{path} cannot.*space"):
        patch.setattr(pathlib.Path, "unlink", fail)  # as on a read-only file system
        files.write(path, '{"a": 2}\n')
    files.write(path, '{"a": 3}\n')
    assert path.read_text() == before.replace("1", "3")
