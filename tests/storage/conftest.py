"""Checkpoints that the tests read, and a disk that is full."""

import resource

import pytest

from tests.train import runs


@pytest.fixture(scope="session")
def two_checkpoints(tiny_run, tmp_path_factory):
    """A work directory with checkpoints after half the steps and after all; read only."""
    folder = tmp_path_factory.mktemp("two")
    runs.train(tiny_run, folder, save_every=runs.STEPS // 2)
    return folder


@pytest.fixture
def fill_disk():
    """A function: from its call to the end of the test, no file can grow beyond 400 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
