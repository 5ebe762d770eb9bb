"""Confidence intervals of 95 %: of one run, of several seeds, and of paired differences."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import exp, log, sqrt
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sequencematch.data.progress import tell_progress

DRAWS = 10_000  # of the bootstrap
GROUPS = 20  # of the jackknife
_ROWS = 1000  # draws at once: their weights are draws x questions


class Difference(NamedTuple):
    """A paired difference of means.

    Attributes:
      mean: of all pairs.
      low, high: interval over runs and questions, by `bootstrap_means`.
      p_value: of no difference, two-sided, by Student's t over the differences of runs, which are few:
        the bootstrap draws these alone, so it cannot tell that others may differ. None for fewer than
        three, of which two that agree by chance would say much.
    """

    mean: float
    low: float
    high: float
    p_value: float | None


def wilson(right: int, n: int) -> tuple[float, float]:
    """Returns the score interval of the share right/n (Wilson 1927), of 95 %."""
    z = 1.959964  # of a normal distribution 95 % lie between -z and z
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    # Unlike share ± z·σ, this interval has a width even where all are right or all are wrong.
    half = z * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # Rounding could leave [0, 1] by an ulp.
    return max(middle - half, 0.0), min(middle + half, 1.0)


def bootstrap_means(
    scores: ArrayLike, seed: int, draws: int = DRAWS, groups: Sequence[int] | None = None
) -> np.ndarray:
    """Means of the table `scores`, its seeds and its questions drawn anew, each with replacement.

    mean = Σ_s Σ_g w_s w_g Σ_{q in g} scores[s, q] / (S Σ_g w_g n_g), where w_s and w_g, how often a
    seed and a group of n_g questions were drawn, are multinomial and independent (Owen 2007, The
    pigeonhole bootstrap).

    Args:
      scores: [S, N], S runs that answered the same N questions.
      seed: of the draws.
      draws: how many means.
      groups: number of each question's group, from 0 on. Questions about the same numbers are right or
        wrong together, so they are drawn together. None: each is its own group.

    Raises:
      ValueError: `groups` are of other questions.
    """
    scores = np.asarray(scores, float)
    runs, questions = scores.shape
    groups = np.arange(questions) if groups is None else np.asarray(groups)
    if len(groups) != questions:
        raise ValueError(f"{len(groups)} groups are not those of {questions} questions")
    sums, sizes = np.stack([np.bincount(groups, row) for row in scores]), np.bincount(groups)
    return np.concatenate(
        [
            np.sum(by_run * (by_group @ sums.T), axis=1) / (runs * (by_group @ sizes))
            for by_run, by_group in _draw_weights(seed, draws, *sums.shape)
        ]
    )


@lru_cache(2)  # drawing takes most of the time, and tables ask for the same draws many times
def _draw_weights(seed: int, draws: int, *sizes: int) -> list[tuple[np.ndarray, ...]]:
    """How often each of n members is drawn, for each n of `sizes`: arrays [draws, n], in some parts."""
    rng, counts = np.random.default_rng(seed), [_ROWS] * (draws // _ROWS)
    counts += [draws % _ROWS] * (draws % _ROWS > 0)
    return [
        tuple(rng.multinomial(n, np.full(n, 1 / n), count).astype(np.int32) for n in sizes)
        for count in counts
    ]


def accuracy_interval(
    right: ArrayLike, seed: int = 0, groups: Sequence[int] | None = None
) -> tuple[float, float]:
    """Interval of the mean accuracy of the method, over its seeds and over questions.

    By Wilson's formula for one run without groups, or with a single one, and where all answers are
    right or all are wrong, over questions or their groups, which says nothing of other seeds; else the
    percentiles of `bootstrap_means`. Few seeds show little of how seeds differ: where that is all of
    the uncertainty, the interval of three covers the truth in some 75 % of cases, that of five in 85 %.
    Where draws decide most, as in sampled answers, intervals are wider than they need be; where few
    answers are right, or few wrong, too narrow, and narrower than those of none.

    Args:
      right: bool[S, N], whether run s answered question q rightly.
      seed, groups: of the bootstrap.
    """
    right = np.asarray(right, bool)
    are_alike = right.all() or not right.any()  # where nothing is drawn, there is no spread
    n = right.shape[1] if groups is None else len({*groups})
    if are_alike or (len(right) == 1 and (groups is None or n == 1)):
        return wilson(round(right.mean() * n), n)
    low, high = np.quantile(bootstrap_means(right, seed, groups=groups), (0.025, 0.975))
    return float(low), float(high)


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, seed: int = 0, groups: Sequence[int] | None = None
) -> Difference:
    """Mean of ours - theirs, paired by run and by question.

    Args:
      ours, theirs: [S, N], whether (or how well) run s answered question q. Runs of one row belong
        together: the same seed, or the run that both have branched from.
      seed, groups: of the bootstrap.

    Raises:
      ValueError: the two are not of one shape.
    """
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    if ours.shape != theirs.shape:
        raise ValueError(f"cannot pair answers of shapes {ours.shape} and {theirs.shape}")
    differences = ours - theirs
    low, high = np.quantile(bootstrap_means(differences, seed, groups=groups), (0.025, 0.975))
    p_value = p_value_of_mean(differences.mean(axis=1))
    return Difference(float(differences.mean()), float(low), float(high), p_value)


def p_value_of_mean(values: Float[np.ndarray, " S"]) -> float | None:
    """That of a mean of zero, two-sided, by Student's t; None for fewer than 3, or without spread."""
    if len(values) < 3 or np.ptp(values) == 0:
        return None
    from scipy import stats  # only here: it takes a second, which every command would wait for

    return float(stats.ttest_1samp(values, 0.0).pvalue)


def jackknife(
    measure: Callable[[Sequence[int]], Mapping[str, Any]], n: int
) -> dict[str, tuple[float, float]]:
    """Intervals of the figures of a list, by leaving out one group of its members after the other.

    θ ± t σ with σ² = (G-1)/G Σ_g (θ_g - θ̄)², where θ_g is the figure without group g, θ̄ the mean of
    these and t Student's for G-1 (Tukey 1958). For a mean and groups of one it is the usual interval.
    A bootstrap would not do for figures that count what repeats, since it draws members twice.

    A group is of neighbours (Künsch 1989): texts of one document stand together, and are alike.

    Args:
      measure: numbers of members, from 0 on -> figures by name; those that are no float are left out.
      n: number of members; of fewer than two nothing is known. G is n, or `GROUPS` where that is less.
    """
    if n < 2:
        return {}
    from scipy import stats  # only here: it takes a second, which every command would wait for

    count, whole = min(GROUPS, n), measure(range(n))
    tell = tell_progress(range(count), "leaving out texts for intervals", lambda done: done / count)
    parts = [measure([i for i in range(n) if i * count // n != group]) for group in tell]
    found = {}
    for name, value in whole.items():
        without = [part.get(name) for part in parts]
        if isinstance(value, float) and all(isinstance(x, float) for x in without):
            spread = sqrt((count - 1) * np.var(without))
            reach = float(stats.t.ppf(0.975, count - 1)) * spread
            found[name] = (value - reach, value + reach)
    return found


def jackknife_of_logs(
    measure: Callable[[Sequence[int]], Mapping[str, float | None]], n: int
) -> dict[str, tuple[float, float]]:
    """As `jackknife`, of logarithms of figures that are positive, as perplexities: so are its ends.

    Args:
      measure, n: as there; a figure is positive, or None.
    """

    def measure_logs(which: Sequence[int]) -> dict[str, float | None]:
        return {name: None if x is None else log(x) for name, x in measure(which).items()}

    found = jackknife(measure_logs, n)
    ends = {name: tuple(map(exp_or_none, interval)) for name, interval in found.items()}
    return {name: interval for name, interval in ends.items() if None not in interval}


def exp_or_none(nats: float) -> float | None:
    """e^nats; None where that is no number, as of a network that has diverged."""
    return exp(nats) if nats < log(sys.float_info.max) else None
