import math

import numpy as np
import pytest
from scipy import stats

from sequencematch.evaluate.intervals import (
    accuracy_interval,
    bootstrap_means,
    exp_or_none,
    jackknife,
    jackknife_of_logs,
    p_value_of_mean,
    paired_difference,
    wilson,
)


# Newcombe (1998), Statistics in Medicine 17, table I, method 3.
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_as_published(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_intervals_contain_the_share():
    for n in (1, 2, 7, 500):
        for right in range(n + 1):
            low, high = wilson(right, n)
            assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1
            assert low < high


def draw_answers(rng, runs, questions, by_run, by_question):
    """bool[runs, questions]: right answers, with effects of that size on the log-odds."""
    effects = rng.normal(0, by_run, (runs, 1)) + rng.normal(0, by_question, (1, questions))
    return rng.random((runs, questions)) < 1 / (1 + np.exp(-1 - effects))


def test_bootstrap_means_are_those_of_a_loop_over_the_same_draws():
    scores = np.random.default_rng(1).normal(size=(3, 5))
    rng = np.random.default_rng(7)
    runs, questions = (rng.multinomial(n, [1 / n] * n, 40) for n in (3, 5))
    expected = []
    for times_run, times_question in zip(runs, questions, strict=True):
        drawn_runs = [s for s in range(3) for _ in range(times_run[s])]
        drawn_questions = [q for q in range(5) for _ in range(times_question[q])]
        drawn = [scores[s][q] for s in drawn_runs for q in drawn_questions]
        expected.append(sum(drawn) / len(drawn))
        assert len(drawn) == 15
    found = bootstrap_means(scores, 7, draws=40)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (bootstrap_means(scores, 8, draws=40) != found).any()


def test_a_group_of_questions_counts_as_one():
    """Of copies of each question, drawn together, the means are those of the questions alone."""
    scores = np.random.default_rng(3).random((4, 9))
    alone = bootstrap_means(scores, 7, draws=40)
    np.testing.assert_array_equal(bootstrap_means(scores, 7, 40, range(9)), alone)
    copies, groups = np.repeat(scores, 3, axis=1), np.repeat(np.arange(9), 3)
    np.testing.assert_allclose(bootstrap_means(copies, 7, 40, groups), alone, rtol=1e-12)
    right = copies > 0.5
    low, high = accuracy_interval(right, groups=groups)
    assert (low, high) == pytest.approx(accuracy_interval(scores > 0.5))
    assert accuracy_interval(right[:1] < 2, groups=groups) == wilson(9, 9)
    with pytest.raises(ValueError, match="27 groups are not those of 9 questions"):
        bootstrap_means(scores, 7, 40, groups)
    narrow = accuracy_interval(right)
    assert high - low > narrow[1] - narrow[0]
    assert paired_difference(copies, 1 - copies, groups=groups) == pytest.approx(
        paired_difference(scores, 1 - scores)
    )


def test_bootstrap_means_spread_as_the_theory_says():
    """Var = (S-1)/S sigma_s^2/S + (N-1)/N sigma_q^2/N where runs and questions add up."""
    rng = np.random.default_rng(0)
    by_run, by_question = rng.normal(size=(4, 1)), rng.normal(size=(1, 30))
    expected = by_run.var() / 4 + by_question.var() / 30
    means = bootstrap_means(by_run + by_question, 0, draws=20_500)  # not a multiple of a batch
    assert means.shape == (20_500,)
    assert means.var() == pytest.approx(expected, rel=0.05)
    assert means.mean() == pytest.approx(by_run.mean() + by_question.mean(), abs=0.02)


@pytest.mark.parametrize(("runs", "low", "high"), [(3, 0.70, 0.80), (5, 0.80, 0.88)])
def test_of_few_seeds_alone_intervals_cover_less(runs, low, high):
    """As `accuracy_interval` says."""
    rng, covered = np.random.default_rng(2), []
    for _ in range(1_000):
        ends = np.quantile(bootstrap_means(rng.normal(size=(runs, 1)), 0, 1_000), (0.025, 0.975))
        covered.append(ends[0] <= 0 <= ends[1])
    assert low < np.mean(covered) < high, np.mean(covered)


@pytest.mark.stress
def test_interval_over_seeds_covers_the_truth_in_some_95_percent_of_cases():
    rng, cases, covered = np.random.default_rng(2), 200, 0
    effects = rng.normal(0, np.hypot(0.3, 1.5), 10**6)
    truth = np.mean(1 / (1 + np.exp(-1 - effects)))
    for _ in range(cases):
        means = bootstrap_means(draw_answers(rng, 6, 150, 0.3, 1.5), 0, draws=500)
        low, high = np.quantile(means, (0.025, 0.975))
        covered += low <= truth <= high
    assert 0.90 <= covered / cases <= 0.99


def test_interval_of_one_run_is_wilsons_and_of_several_the_percentiles():
    right = draw_answers(np.random.default_rng(3), 4, 60, 0.3, 1.0)
    assert accuracy_interval(right[:1]) == wilson(int(right[0].sum()), 60)
    low, high = accuracy_interval(right[:1], groups=np.zeros(60, int))  # all about one thing
    assert low < right[0].mean() < high
    low, high = accuracy_interval(right, seed=5)
    means = np.sort(bootstrap_means(right, 5))
    assert np.mean(means < low) == pytest.approx(0.025, abs=0.005)
    assert np.mean(means > high) == pytest.approx(0.025, abs=0.005)
    assert low < right.mean() < high
    assert accuracy_interval(right, seed=5) == (low, high) != accuracy_interval(right, seed=6)


def test_where_all_answers_are_alike_the_interval_is_of_the_questions():
    """However many runs: they say no more of other questions."""
    for value in (0, 1):
        right = np.full((3, 20), value, bool)
        assert accuracy_interval(right) == accuracy_interval(right[:1]) == wilson(20 * value, 20)
        assert accuracy_interval(right, groups=np.arange(20) // 2) == wilson(10 * value, 10)


def test_where_answers_are_the_same_there_is_no_difference():
    same = draw_answers(np.random.default_rng(3), 3, 20, 0.3, 1.0)
    assert paired_difference(same, same) == (0, 0, 0, None)


@pytest.mark.parametrize("differences", [[0.2], [0.2, 0.1], [0.2, 0.2, 0.2]])
def test_too_few_runs_have_no_p_value_nor_such_without_spread(differences):
    assert p_value_of_mean(np.array(differences)) is None


def test_paired_difference_is_that_of_pairs_and_changes_its_sign():
    rng = np.random.default_rng(4)
    theirs = draw_answers(rng, 6, 400, 0.3, 2.0)
    better = theirs | (rng.random(theirs.shape) < 0.1)  # a few more are right, none fewer
    found = paired_difference(better, theirs)
    assert found.mean == pytest.approx(better.mean() - theirs.mean())
    assert 0 < found.low < found.mean < found.high and found.p_value < 0.001
    # The two intervals overlap: only in pairs is the difference seen.
    assert accuracy_interval(better)[0] < accuracy_interval(theirs)[1]
    turned = paired_difference(theirs, better)
    assert turned == pytest.approx((-found.mean, -found.high, -found.low, found.p_value))


@pytest.mark.parametrize("runs", [3, 5])
def test_p_values_of_no_difference_are_uniform_however_few_the_runs(runs):
    rng, found = np.random.default_rng(5), []
    for _ in range(1_000):
        by_run = rng.normal(0, 0.1, (runs, 1))  # of which one draw shows little
        found.append(p_value_of_mean((by_run + rng.normal(0, 1, (runs, 400))).mean(axis=1)))
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_answers_to_other_questions_are_not_paired():
    with pytest.raises(ValueError, match=r"cannot pair answers of shapes \(2, 3\) and \(2, 4\)"):
        paired_difference(np.ones((2, 3)), np.ones((2, 4)))


def test_the_jackknife_of_a_mean_is_its_usual_interval():
    values = np.random.default_rng(0).normal(3, 2, 15)
    found = jackknife(lambda which: {"mean": float(np.mean(values[[*which]]))}, 15)
    reach = stats.t.ppf(0.975, 14) * values.std(ddof=1) / np.sqrt(15)
    assert found["mean"] == pytest.approx((values.mean() - reach, values.mean() + reach))


def test_the_jackknife_by_groups_covers_an_entropy_as_often_as_it_says():
    """Where a bootstrap would not: it draws words twice, and finds less entropy than there is."""
    p, covered = np.arange(1, 9) / 36, []
    for seed in range(200):
        words = np.random.default_rng(seed).choice(8, size=400, p=p)

        def entropy(which, words=words):
            q = np.bincount(words[[*which]], minlength=8) / len(which)
            return {"entropy": float(-(q * np.log(q)).sum())}

        low, high = jackknife(entropy, 400)["entropy"]
        covered.append(low <= -(p * np.log(p)).sum() <= high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_the_jackknife_covers_a_mean_of_neighbours_that_are_alike():
    """Documents of 10 texts each: groups that mixed them would take 200 texts to be independent."""
    covered = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.normal(size=40), 10) + rng.normal(size=400)
        low, high = jackknife(lambda i, x=values: {"mean": float(x[[*i]].mean())}, 400)["mean"]
        covered.append(low <= 0 <= high)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_the_jackknife_of_logs_is_positive_and_that_of_one_over_it_is_its_mirror():
    losses = np.random.default_rng(0).gamma(0.05, 60, 15)

    def perplexities(which):
        loss = losses[[*which]].mean()
        return {"it": float(np.exp(loss)), "inverse": float(np.exp(-loss)), "none": None}

    found = jackknife_of_logs(perplexities, 15)
    mean = jackknife(lambda which: {"loss": float(losses[[*which]].mean())}, 15)["loss"]
    assert found.keys() == {"it", "inverse"} and mean[0] < 0 < found["it"][0]
    np.testing.assert_allclose(found["it"], np.exp(mean))
    np.testing.assert_allclose(found["inverse"], 1 / np.exp(mean)[::-1])


def test_an_interval_whose_end_is_no_number_is_left_out():
    nats = [500.0, 600.0, 700.0]

    def perplexity(which):
        return {"perplexity": exp_or_none(sum(nats[i] for i in which) / len(which))}

    assert perplexity(range(3))["perplexity"] == pytest.approx(math.exp(600))
    assert jackknife_of_logs(perplexity, 3) == {}


def test_nothing_is_known_of_one_member_or_of_what_is_no_float():
    assert jackknife(lambda which: {"a": 1.0}, 1) == {}
    assert jackknife(lambda which: {"n": len(which), "none": None}, 5) == {}
