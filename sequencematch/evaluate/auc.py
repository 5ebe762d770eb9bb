"""How well a score tells right answers from wrong ones: the area under the ROC curve.

It is the probability that a right answer scores above a wrong one, ties counted half.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def auc(scores: ArrayLike, right: ArrayLike) -> float | None:
    """The share of pairs (right, wrong) that the score puts in order; None if there are none."""
    wins, pairs = _count_wins(scores, right)
    return wins / pairs if pairs else None


def auc_within(scores: ArrayLike, right: ArrayLike, groups: Sequence[Hashable]) -> float | None:
    """The same over pairs of one group, all groups together; a group may be a question."""
    scores, right = np.asarray(scores), np.asarray(right, bool)
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    counts = [_count_wins(scores[places], right[places]) for places in members.values()]
    wins, pairs = (sum(count[i] for count in counts) for i in (0, 1))
    return wins / pairs if pairs else None


def _count_wins(scores: ArrayLike, right: ArrayLike) -> tuple[float, int]:
    """(pairs with the right answer above the wrong one, ties half; all pairs), by Mann-Whitney."""
    right = np.asarray(right, bool)
    positive, negative = int(right.sum()), int((~right).sum())
    from scipy import stats  # only here: it takes a second, which every command would wait for

    # The lowest possible sum of the ranks of `positive` answers is 1 + 2 + ... + positive.
    ranks = stats.rankdata(scores)[right]
    return float(ranks.sum() - positive * (positive + 1) / 2), positive * negative
