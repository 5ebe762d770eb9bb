import pytest
import tensorflow_datasets as tfds

from sequencematch.data import arithmetic
from tests.data.preparation import data_config

tfds.disable_progress_bar()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where `task` is prepared."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def task(folder):
    return arithmetic.task(data_config(folder))
