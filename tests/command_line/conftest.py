"""A tiny run that is done, one that was cut, and how a refusal looks."""

import pathlib

import pytest

from tests.command_line.command import CONFIG, SAVED, TINY, command, contents, happening
from tests.train.runs import Crash, crash


@pytest.fixture(scope="session")
def pairs(spellings):
    """The file of questions and answers."""
    return pathlib.Path(spellings)


@pytest.fixture(scope="session")
def tiny(pairs):
    """The flags of a run that takes seconds."""
    values = {**TINY, "data.path": pairs}
    return [CONFIG, *(f"--config.{key}={value}" for key, value in values.items())]


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    """The folder of a run that is done; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert command(*tiny, f"--workdir={folder}") == 0
    return folder


@pytest.fixture(scope="session")
def interrupted(tiny, tmp_path_factory):
    """The folder of a run that lost its power two steps after a checkpoint; not to be changed."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with happening(SAVED + 2, crash), pytest.raises(Crash):
        command(*tiny, f"--workdir={folder}")
    return folder


@pytest.fixture
def refused(tmp_path, capfd):
    """Asserts that a command is refused in one line that has the words, and changes nothing."""

    def check(words, *args, watched=()):
        folders = [tmp_path, *watched]
        before = [contents(folder) for folder in folders]
        capfd.readouterr()
        assert command(*args) == 2
        out, err = capfd.readouterr()
        assert [contents(folder) for folder in folders] == before
        assert out == "" and err.startswith("sequencematch: ") and err.endswith("\n")
        assert len(err.splitlines()) == 1, err
        assert [word for word in words if word not in err] == [], err

    return check
