"""Unknown keys, missing keys, wrong types and sections are refused in one line."""

import copy
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from sequencematch.setup.check import type_name
from sequencematch.setup.defaults import defaults, flatten
from sequencematch.setup.rules import RULES, TYPE_NAMES
from tests.setup.configs import config_with, error_of


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.heads": 3}, ["model.d_model=128", "model.heads=3"]),
        ({"model.heads": 128}, ["model.d_model=128", "twice model.heads=128"]),
        ({"model.kv_heads": 3}, ["model.heads=4", "model.kv_heads=3"]),
    ],
)
def test_head_counts_must_divide(changes, words):
    message = error_of(config_with(changes))
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("section", "wrong", "right"),
    [
        ("train", "stpes", "train.steps"),
        ("objective", "gama", "objective.gamma"),
        ("noise", "eat", "noise.eta"),
        ("data", "entropie", "data.entropy"),
    ],
)
def test_misspelt_key_gets_a_suggestion(section, wrong, right):
    config = defaults()
    with config.unlocked():
        config[section][wrong] = 1
    message = error_of(config)
    assert message.startswith(f"config.{section}.{wrong} is not a key")
    assert message.endswith(f"did you mean {right!r}?")


def test_missing_key_is_reported():
    config = defaults()
    with config.unlocked():
        del config.objective.alpha
    assert error_of(config).startswith("config.objective.alpha is missing")


# Values of every type, and numpy's, which only look like Python's: a configuration file or an edited
# config.json may hold any of them.
VALUES = [None, True, 3, 2.5, "often", (), (3,), (2.5,), ("<bkspc>",), np.int64(3), np.float64(0.5)]
NOT_FLOAT32 = [math.nan, math.inf, -math.inf, 1e-50, 1e50, 10**400, 2**31, 2**63]
DEFAULTS = defaults().to_dict()
ALLOWED_TYPES = {bool: [bool], int: [int], float: [float, int], str: [str], tuple: [tuple, list]}


def config_forced(key, value):
    """The defaults with one value set without the type checks of ConfigDict."""
    values = copy.deepcopy(DEFAULTS)
    *section, name = key.split(".")
    (values[section[0]] if section else values)[name] = value
    return ConfigDict(values)


@pytest.mark.parametrize("key", flatten(defaults()))
def test_value_of_another_type_is_refused(key):
    default = flatten(defaults())[key]
    element = [type(x) for x in default[:1]] if isinstance(default, tuple) else []
    for value in VALUES:
        fits = type(value) in ALLOWED_TYPES[type(default)]
        if fits and all(type(x) in ALLOWED_TYPES[t] for t in element for x in value):
            continue
        message = error_of(config_forced(key, value))
        assert message.startswith(f"config.{key}={value!r} must be {type_name(default)}")
        assert message.endswith(RULES[key].allowed if key in RULES else "")


def test_number_outside_float32_is_refused():
    for key in (key for key, default in flatten(defaults()).items() if isinstance(default, float)):
        for value in NOT_FLOAT32:
            message = error_of(config_forced(key, value))
            assert message.startswith(f"config.{key}={value!r} must be a finite float32 number")
    for value in NOT_FLOAT32:
        message = error_of(config_forced("data.entropy", (1.0, value)))
        assert "must be a tuple whose every element is a finite float32 number, a ra" in message


def test_every_type_has_a_name():
    names = {type_name(x) for x in flatten(defaults()).values()}
    assert names == {*TYPE_NAMES.values()} | {
        f"a tuple whose every element is {one}"
        for one in ("an integer", "a finite float32 number", "a string")
    }


@pytest.mark.parametrize("value", [3, None, "steps", [1, 2]])
def test_value_in_place_of_a_section_is_reported(value):
    config = ConfigDict(defaults().to_dict() | {"train": value})
    assert error_of(config) == f"config.train={value!r} must be a section, as in defaults()"


def test_section_in_place_of_a_value_is_reported():
    config = ConfigDict(defaults().to_dict() | {"seed": {"of": 3}})
    assert error_of(config).startswith("config.seed.of is not a key of this configuration")
    assert error_of(ConfigDict({1: 2})) == "config.1 is not a key of this configuration"
    config = ConfigDict(defaults().to_dict() | {"train": {}})
    assert error_of(config).startswith("config.train.accumulate is missing")
