"""What is printed when a run starts."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sequencematch.cli import training
from sequencematch.data.checks import DataFacts
from tests.setup.configs import valid_config_with


@pytest.mark.parametrize("apart", [0, 1234])
def test_examples_that_are_encoded_apart_are_told_of_if_there_are_any(apart, capsys):
    parts = SimpleNamespace(
        config=valid_config_with({}),
        task=SimpleNamespace(name="copy"),
        parameters=3,
        data=DataFacts(0, apart),
        recipe=SimpleNamespace(objective=None),
    )
    training.announce(parts, Path("run"), 0)
    first, *rest = capsys.readouterr().out.splitlines()
    assert "sequencematch on copy" in first
    assert len(rest) == bool(apart)
    assert all("1,234 examples have a completion that is encoded without" in line for line in rest)
