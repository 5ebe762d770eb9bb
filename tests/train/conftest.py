"""Parts of runs that compile in seconds."""

import pytest

from tests.train import traces


@pytest.fixture
def build_with(spellings):
    """Changes of configuration keys -> parts of a run that compiles in seconds."""
    return lambda changes: traces.build_small(spellings, changes)
