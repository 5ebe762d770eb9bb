"""Flattening, comparing and looking up configuration keys."""

import pytest
from ml_collections import ConfigDict

from sequencematch.setup.defaults import check_known_key, defaults, differences, flatten


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
