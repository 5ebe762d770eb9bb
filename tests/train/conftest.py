"""The tiny run, and what it leaves when nothing interrupts it."""

import pytest

from tests.train import runs, traces


@pytest.fixture(scope="session")
def tiny_run(spellings):
    """A `TinyRun`, compiled once for all tests."""
    return runs.make_tiny_run(spellings)


@pytest.fixture(scope="session")
def whole_run(tiny_run, tmp_path_factory):
    """(work directory, last state) of an uninterrupted run; read only."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, runs.train(tiny_run, folder, save_every=runs.STEPS)


@pytest.fixture
def build_with(spellings):
    """Changes of configuration keys -> parts of a run that compiles in seconds."""
    return lambda changes: traces.build_small(spellings, changes)
