"""What is printed when a run starts."""

from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from sequencematch.cli import training
from sequencematch.data.checks import DataFacts
from sequencematch.train.mesh import make_mesh
from tests.setup.configs import valid_config_with

FACTS = {"encoded_apart": 1234, "left_out": {"train": 4968}, "repeated_lines": 0}


def first_lines(changes, found, capsys):
    """The lines that a run with these changes and facts of its data begins with."""
    parts = SimpleNamespace(
        config=valid_config_with(changes),
        task=SimpleNamespace(name="copy", network=None),
        parameters=3,
        frozen={},
        mesh=make_mesh(len(jax.devices())),
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout.noise": True}, ""),
        (
            {"rollout.noise": True, "method": "le_cam"},
            "rollout.noise=True has no effect: no samples",
        ),
        ({"rollout.noise": True, "noise.eta": 0.0}, "no effect: the data have no noise"),
        ({"rollout.noise": True, "edits": (), "noise.kind": "none"}, "the data have no noise"),
        ({"objective.bound": True}, ""),
        ({"method": "le_cam", "objective.bound": True}, "those of le_cam may be larger"),
        ({"method": "bc", "objective.bound": True}, ""),
    ],
)
def test_keys_without_the_effect_that_they_seem_to_have_are_told_of(changes, words, capsys):
    lines = first_lines(changes, {}, capsys)[1:]
    told = [line for line in lines if "takes objective.divergence" not in line]
    assert len(told) == bool(words) and words in "".join(told)


def test_keys_of_the_objective_that_the_method_decides_are_told_of(capsys):
    changes = {"method": "iql_offline", "objective.alpha": 0.3, "objective.weighting": "uniform"}
    (line,) = first_lines(changes, {}, capsys)[1:]
    assert "method=iql_offline takes objective.divergence='chi2', objective.alpha=0.01," in line
    assert "weighting" not in line  # as the configuration has it
