"""Facts of the data in words."""

import pytest

from sequencematch.data.facts import SENTENCES, describe


def test_every_fact_has_a_sentence_and_nothing_is_said_of_none():
    assert len(list(describe(dict.fromkeys(SENTENCES, 3)))) == len(SENTENCES)
    assert list(describe({})) == []
    for nothing in (0, 0.0, {}, {"train": 0, "test": 0}):
        assert list(describe(dict.fromkeys(SENTENCES, nothing))) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234, "1,234"),
        (0.0123, "1.23%"),
        ({"train": 4968, "validation": 0, "test": 2}, "train 4,968, test 2"),
        ({f"k{i}": 1 for i in range(10)}, "k6 1, k7 1 and 2 more"),
    ],
)
def test_numbers_shares_and_numbers_by_name_are_shown(value, shown):
    (sentence,) = describe({"left_out": value})
    assert f"{shown}." in sentence


@pytest.mark.parametrize("value", ["12", None, [1], -3, float("nan"), {"a": {}}, {"a": "b"}])
def test_what_is_no_fact_is_passed_over(value):
    assert list(describe({"too_long": value, "another": 7})) == []
