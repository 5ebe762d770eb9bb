"""Fixtures: a crashed run, a pretrained model, and the check of a refusal."""

import pytest

from sequencematch.data.subword import read_tokenizer
from tests.command_line.command import (
    SAVE_EVERY,
    contents,
    event_at_step,
    run_command,
)
from tests.data import tokenizer_folders
from tests.models.pretrained import tiny
from tests.train.runs import Crash, crash


@pytest.fixture(scope="session")
def crashed_run(tiny_flags, tmp_path_factory):
    """The work directory of a run killed two steps after a checkpoint; tests must not change it."""
    folder = tmp_path_factory.mktemp("crashed") / "run"
    with event_at_step(SAVE_EVERY + 2, crash), pytest.raises(Crash):
        run_command(*tiny_flags, f"--workdir={folder}")
    return folder


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """A tiny Llama with a tokenizer of bytes."""
    folder = tokenizer_folders.byte_level(tmp_path_factory.mktemp("model"))
    sizes = {"vocab_size": read_tokenizer(folder).own_size, "eos_token_id": 0}
    return tiny.write(folder, tiny.CASES["llama, scaled"] | sizes)


@pytest.fixture
def assert_refused(tmp_path, capfd):
    """A function that asserts that a command is refused in one line, and that no file changes.

    Args of the function:
      words: what the line must contain.
      args: the command line.
      unchanged: folders, besides tmp_path, that must not change.
    """

    def check(words, *args, unchanged=()):
        folders = [tmp_path, *unchanged]
        before = [contents(folder) for folder in folders]
        capfd.readouterr()
        assert run_command(*args) == 2
        out, err = capfd.readouterr()
        assert [contents(folder) for folder in folders] == before
        assert out == "" and err.startswith("sequencematch: ") and err.endswith("\n")
        assert len(err.splitlines()) == 1, err
        assert [word for word in words if word not in err] == [], err

    return check
