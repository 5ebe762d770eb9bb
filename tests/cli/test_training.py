"""What is printed when a run starts."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sequencematch.cli import training
from sequencematch.data.checks import DataFacts
from tests.setup.configs import valid_config_with

FACTS = {"encoded_apart": 1234, "left_out": {"train": 4968}, "repeated_lines": 0}


def first_lines(changes, found, capsys):
    """The lines that a run with these changes and facts of its data begins with."""
    parts = SimpleNamespace(
        config=valid_config_with(changes),
        task=SimpleNamespace(name="copy", network=None),
        parameters=3,
        frozen={},
        data=DataFacts(0, {}, found, 0),
    )
    training.announce(parts, Path("run"), 0)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("found", [{}, FACTS])
def test_facts_of_the_data_are_told_of_if_there_are_any(found, capsys):
    first, *rest = first_lines({}, found, capsys)
    assert "sequencematch on copy" in first
    assert len(rest) == (2 if found else 0)
    for words in ("left out: train 4,968.", "is encoded without its prompt: 1,234.") * bool(found):
        assert any(words in line for line in rest)


def test_keys_of_the_objective_that_the_method_decides_are_told_of(capsys):
    changes = {"method": "iql_offline", "objective.alpha": 0.3, "objective.weighting": "uniform"}
    (line,) = first_lines(changes, {}, capsys)[1:]
    assert "method=iql_offline takes objective.divergence='chi2', objective.alpha=0.01," in line
    assert "weighting" not in line  # as the configuration has it
