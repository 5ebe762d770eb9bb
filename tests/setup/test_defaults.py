"""Flattening, comparing and looking up configuration keys."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from sequencematch.setup.defaults import (
    check_known_key,
    defaults,
    differences,
    flatten,
    network_config,
    resolve_dtype,
)
from sequencematch.setup.newer_keys import NEWER_KEYS, add_newer_keys

OLDEST = Path(__file__).parents[1] / "cli" / "config_of_0_1.json"


def test_flatten_gives_every_leaf_a_dotted_key():
    nested = {"a": {"b": {"c": 1}, "d": (2, 3)}, "e": {}}
    assert flatten(nested) == {"a.b.c": 1, "a.d": (2, 3)}
    assert flatten(ConfigDict(nested)) == {"a.b.c": 1, "a.d": (2, 3)}
    assert flatten(nested, "x.") == {"x.a.b.c": 1, "x.a.d": (2, 3)}


def test_differences_give_both_values_of_each_key():
    theirs = {"a": {"b": 1, "c": 2.0}, "gone": "x", "same": [1]}
    ours = {"a": {"b": 1, "c": 3.0}, "new": None, "same": [1]}
    assert differences(ours, theirs) == [
        "a.c: 2.0 -> 3.0",
        "gone: 'x' -> 'missing'",
        "new: 'missing' -> None",
    ]
    assert differences(theirs, theirs) == []


def test_no_key_is_suggested_where_none_is_close():
    with pytest.raises(ValueError, match="^config.zzzzzz is not a key of this configuration$"):
        check_known_key("zzzzzz", flatten(defaults()))


def test_every_key_is_in_the_oldest_configuration_or_has_a_value_for_it():
    """A new key needs a line in NEWER_KEYS, or the runs that are there could not be opened."""
    oldest = json.loads(OLDEST.read_text())["config"]
    assert set(flatten(defaults())) == {*flatten(oldest), *NEWER_KEYS}
    assert flatten(add_newer_keys(oldest)) == {**flatten(oldest), **NEWER_KEYS}


def test_a_key_that_is_there_stays_and_what_is_no_section_is_left_alone():
    saved = {"evaluate": {"memory": False, "edit_bias": 1.0}, "data": 3}
    added = add_newer_keys(saved)
    assert added["evaluate"]["memory"] is False and added["evaluate"]["temperature"] == 1.0
    assert added["data"] == 3 and "temperature" not in saved["evaluate"]
    assert add_newer_keys({}) == {
        "init": "",
        "wandb": "",
    }  # sections are left for the check to miss


def test_a_vocabulary_that_a_preset_has_not_is_refused_by_its_key():
    config = defaults()
    config.model.preset = "gpt2"
    with pytest.raises(ValueError, match=r"config\.model\.preset='gpt2': "):
        network_config(config, 60_001, edits=1)


def test_a_preset_gives_the_sizes_and_the_configuration_the_precision():
    config = defaults()
    own = network_config(config, 33, edits=2)
    assert (own.vocab_size, own.edits, own.layers, own.d_model) == (33, 2, 4, 128)
    config.model.update(preset="qwen3-0.6b", dtype="bfloat16", remat="full")
    known = network_config(config, 33, edits=2)
    assert (known.vocab_size, known.edits, known.layers, known.head_dim) == (33, 2, 28, 128)
    assert (known.qk_norm, known.dtype, known.remat) == (True, "bfloat16", "full")


@pytest.mark.parametrize(
    ("dtype", "platform", "expected"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "gpu", "bfloat16"),
        ("auto", "tpu", "bfloat16"),
        ("bfloat16", "cpu", "bfloat16"),
        ("float32", "tpu", "float32"),
    ],
)
def test_an_automatic_dtype_is_written_down(dtype, platform, expected):
    config = defaults()
    config.model.dtype = dtype
    resolve_dtype(config, platform)
    assert config.model.dtype == expected
