"""One tiny run for all that is said about interruptions."""

import pytest


@pytest.fixture(scope="session")
def parts(spellings):
    """(run, plan, episodes, prompts), compiled once for all tests."""
    from tests.train import runs

    return runs.parts_of(spellings)


@pytest.fixture(scope="session")
def whole(parts, tmp_path_factory):
    """(folder, last state) of a run that nothing disturbs; not to be changed."""
    from tests.train import runs

    folder = tmp_path_factory.mktemp("whole")
    return folder, runs.train(parts, folder, save_every=runs.STEPS)
