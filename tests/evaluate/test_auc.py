import random

import numpy as np
import pytest

from sequencematch.evaluate.auc import auc, auc_within
from tests.oracles import auc_slowly


def test_areas_are_those_of_a_loop_over_pairs():
    without_pairs = ties = 0
    for seed in range(300):
        rng = random.Random(seed)
        n = rng.randrange(1, 20)
        scores = [rng.choice([rng.random(), 0.25, 0.75, -np.inf]) for _ in range(n)]
        right = [rng.random() < 0.6 for _ in range(n)]
        groups = [rng.choice("abc") for _ in range(n)]
        assert auc(scores, right) == auc_slowly(scores, right, "a" * n)
        assert auc_within(scores, right, groups) == auc_slowly(scores, right, groups)
        assert auc_within(scores, right, "a" * n) == auc(scores, right)
        without_pairs += auc_within(scores, right, groups) is None
        ties += len({*scores}) < n
    assert without_pairs > 10 and ties > 100


def test_only_the_order_counts():
    rng = np.random.default_rng(0)
    scores, right, groups = rng.normal(size=80), rng.random(80) < 0.5, rng.integers(10, size=80)
    for area in (auc, lambda s, r: auc_within(s, r, groups)):
        assert area(np.exp(3 * scores), right) == area(scores, right)
        assert area(-scores, right) == pytest.approx(1 - area(scores, right))
        assert area(scores, ~right) == pytest.approx(1 - area(scores, right))
    # What a group has in common is no merit within it.
    assert auc_within(scores + 100 * groups, right, groups) == auc_within(scores, right, groups)
    assert auc(scores + 100 * groups, right) != auc(scores, right)


def test_area_is_one_where_the_score_knows_a_half_where_it_does_not_and_none_without_pairs():
    right = [True, False, True]
    assert (auc([2, 1, 3], right), auc([1, 1, 1], right), auc([0, 1, 0], right)) == (1, 0.5, 0)
    assert auc([1, 2], [True, True]) is None
    assert auc_within([1, 2], [True, False], ["a", "b"]) is None
