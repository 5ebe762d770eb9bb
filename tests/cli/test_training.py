"""What is printed when a run starts."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sequencematch.cli import training
from sequencematch.data.checks import DataFacts
from tests.setup.configs import valid_config_with

FACTS = {"encoded_apart": 1234, "left_out": {"train": 4968}, "repeated_lines": 0}


@pytest.mark.parametrize("found", [{}, FACTS])
def test_facts_of_the_data_are_told_of_if_there_are_any(found, capsys):
    parts = SimpleNamespace(
        config=valid_config_with({}),
        task=SimpleNamespace(name="copy", network=None),
        parameters=3,
        frozen={},
        data=DataFacts(0, {}, found, 0),
        recipe=SimpleNamespace(objective=None),
    )
    training.announce(parts, Path("run"), 0)
    first, *rest = capsys.readouterr().out.splitlines()
    assert "sequencematch on copy" in first
    assert len(rest) == (2 if found else 0)
    for words in ("left out: train 4,968.", "is encoded without its prompt: 1,234.") * bool(found):
        assert any(words in line for line in rest)
