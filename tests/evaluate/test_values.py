import numpy as np
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import Objective
from sequencematch.core.rewards import TERMINALS, bound_value
from sequencematch.evaluate.sections import SCORE_ROWS
from sequencematch.evaluate.values import (
    Scorer,
    Scores,
    answer_scores,
    correlation,
    value_statistics,
)
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from tests.evaluate.answers import BKSPC, BOS, EOS, PAD, PLAIN, answer
from tests.oracles import auc_slowly

ANSWERS = [answer("ab", actions) for actions in ("ab$", "ac<b$", "b<c", "$", "ab$")]
GAMMA = 0.9
PROCESS = mdp.make(PLAIN.vocab_size, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})


@pytest.fixture(scope="module")
def network():
    sizes = TransformerConfig(PLAIN.vocab_size, 1, 16, 2, 1, 16)
    return nnx.split(Transformer(sizes, nnx.Rngs(5)))


def make_scorer(graph, rows=3, terminal="learned", process=PROCESS, slots=9, **changes):
    objective = Objective(
        DIVERGENCES["chi2_mixture"], alpha=0.1, gamma=GAMMA, terminal=TERMINALS[terminal], **changes
    )
    return Scorer(graph, process, PLAIN, slots=slots, rows=rows, objective=objective)


@pytest.mark.stress
def test_returns_do_not_depend_on_the_number_of_rows(network):
    graph, params = network
    one, two = (
        np.stack(
            [x.recovered_return for x in make_scorer(graph, rows).score_answers(params, ANSWERS)]
        )
        for rows in (2, 3)
    )
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert one.shape == (5,) and one[0] == pytest.approx(one[4]) and len(set(one[:4])) == 4


def test_room_is_what_the_longest_answer_takes_and_changes_no_score(network, monkeypatch):
    graph, params = network
    tight, wide = make_scorer(graph), make_scorer(graph, slots=200)
    shapes, compute = [], wide._score
    monkeypatch.setattr(
        wide,
        "_score",
        lambda p, episodes: shapes.append(episodes.tokens.shape) or compute(p, episodes),
    )
    for a, b in zip(
        *(scorer.score_answers(params, ANSWERS) for scorer in (tight, wide)), strict=True
    ):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    assert shapes == [(3, 8)] * 2  # <bos>, two of a prompt, at most five actions


@pytest.mark.parametrize("terminal", TERMINALS)
def test_return_is_the_first_value_and_the_discounted_likelihood_and_nothing_else(
    network, terminal
):
    """docs/mathematics.md, section 4: whatever V(s_N) is said to be, it cancels."""
    graph, params = network
    ends = set()
    for a, scores in zip(
        ANSWERS, make_scorer(graph, terminal=terminal).score_answers(params, ANSWERS), strict=True
    ):
        kappa = GAMMA ** np.arange(len(a.actions))
        assert scores.recovered_return == pytest.approx(
            scores.v[0] + np.sum(kappa * scores.log_probs), abs=1e-5
        )
        # What the absorbing state, or the part that was cut off, adds to the rewards of the actions.
        ending = scores.recovered_return - np.sum(kappa * scores.rewards)
        assert ending == pytest.approx(GAMMA ** len(a.actions) * scores.v[-1], abs=1e-5)
        ends.add(bool(scores.v[-1]))
    assert False in ends if terminal == "zero" else ends == {True}


def test_probabilities_of_texts_are_those_of_a_model_that_never_edits(network):
    graph, params = network
    masked = PROCESS._replace(legal=PROCESS.legal & (PROCESS.pops == 0))
    scorers = make_scorer(graph, process=masked), make_scorer(graph)
    expected, found = (list(scorer.score_answers(params, ANSWERS)) for scorer in scorers)
    for each, alone, by_text in zip(ANSWERS, expected, found, strict=True):
        is_text = np.array(each.actions) != BKSPC
        np.testing.assert_array_equal(by_text.text_log_probs[is_text], alone.log_probs[is_text])
        assert (by_text.text_log_probs[~is_text] == -np.inf).all()
        assert (by_text.text_log_probs[is_text] > by_text.log_probs[is_text]).all()


def test_rewards_are_those_of_the_objective_and_returns_have_no_bound(network):
    graph, params = network
    bound = 4 / (20 * (1 - GAMMA))
    scorers = (make_scorer(graph), make_scorer(graph, next_value=bound_value(20, GAMMA)))
    for plain, bounded in zip(
        *(scorer.score_answers(params, ANSWERS) for scorer in scorers), strict=True
    ):
        assert (abs(plain.v) > bound).any()
        following = GAMMA * np.clip(plain.v[1:], -bound, bound)
        np.testing.assert_allclose(bounded.rewards, plain.q - following, atol=1e-5)
        np.testing.assert_allclose(bounded.recovered_return, plain.recovered_return, atol=1e-5)


def score_by_loops(scores):
    """The same scores of an answer, one action at a time."""
    likelihood = rewards = drops = discounted = 0.0
    smallest, steps = np.inf, len(scores.log_probs)
    for t in range(steps):
        likelihood += scores.log_probs[t]
        reward = scores.q[t] - GAMMA * scores.v[t + 1]
        rewards, discounted = rewards + reward, discounted + GAMMA**t * reward
        smallest = min(smallest, reward)
        drops += scores.v[t] - GAMMA * scores.v[t + 1]
    return {
        "log_likelihood": likelihood,
        "log_likelihood_per_action": likelihood / steps,
        "reward_sum": rewards,
        "reward_min": smallest,
        "value_end": scores.v[steps],
        "value_drops": drops,
        "return": discounted + GAMMA**steps * scores.v[steps],
    }


def test_scores_of_an_answer_are_those_of_a_loop(network):
    graph, params = network
    for scores in make_scorer(graph).score_answers(params, ANSWERS):
        found = answer_scores(scores, GAMMA)
        assert found == pytest.approx(score_by_loops(scores), abs=1e-5)
        assert found["reward_sum"] == pytest.approx(  # r = log pi + V - gamma V'
            found["log_likelihood"] + found["value_drops"], abs=1e-5
        )


def test_return_orders_answers_to_one_question_as_the_discounted_likelihood_does(network):
    graph, params = network
    drawn = ["ab$", "ac<b$", "b<c", "$", "abc$", "a$", "b$", "bc<$"]
    scores = list(make_scorer(graph).score_answers(params, [answer("ab", x) for x in drawn]))
    discounted = [np.sum(GAMMA ** np.arange(len(s.log_probs)) * s.log_probs) for s in scores]
    returns = [answer_scores(s, GAMMA)["return"] for s in scores]
    assert list(np.argsort(returns)) == list(np.argsort(discounted))
    plain = [s.log_probs.sum() for s in scores]
    assert list(np.argsort(returns)) != list(np.argsort(plain))  # so the test could fail


def test_report_has_a_row_for_every_score(network):
    graph, params = network
    (scores,) = make_scorer(graph).score_answers(params, ANSWERS[:1])
    assert {row[0] for row in SCORE_ROWS} == {*answer_scores(scores, GAMMA)}


def test_statistics_are_areas_over_all_pairs_and_over_those_to_one_question():
    rng = np.random.default_rng(0)
    lengths, questions = rng.integers(1, 6, 40), rng.integers(8, size=40).tolist()
    right = (rng.random(40) < 0.5).tolist()
    scores = [
        Scores(rng.normal(size=n + 1), *rng.normal(size=(4, n)), rng.normal()) for n in lengths
    ]
    found = value_statistics(scores, right, questions, GAMMA)
    for name in answer_scores(scores[0], GAMMA):
        column = [answer_scores(s, GAMMA)[name] for s in scores]
        assert found[name]["pooled"] == auc_slowly(column, right, [0] * 40)
        assert found[name]["within"] == auc_slowly(column, right, questions)
    alone = value_statistics(scores, right, range(40), GAMMA)  # one answer to each question
    assert alone["return"] == {"pooled": found["return"]["pooled"], "within": None}


def test_correlation_is_by_rank_and_its_sign_is_that_of_right_answers():
    right = [True, False, True, False]
    returns = np.array([100.0, 1.0, 3.0, 2.0])
    found = correlation(returns, right)
    assert found["spearman"] == pytest.approx(2 / np.sqrt(5))  # ranks 4, 1, 3, 2
    assert (found["right"], found["wrong"]) == (51.5, 1.5)
    assert correlation(np.exp(returns / 50), right)["spearman"] == found["spearman"]
    assert correlation(-returns, right)["spearman"] == pytest.approx(-found["spearman"])


def test_what_is_not_defined_of_a_correlation_is_none():
    """A summary is JSON, which has no NaN."""
    two = correlation(np.array([1.0, 2.0]), [False, True])
    assert (two["spearman"], two["p_value"]) == (pytest.approx(1), None)
    alike = correlation(np.ones(4), [False, True, True, False])
    assert (alike["spearman"], alike["p_value"]) == (None, None)
    assert (alike["right"], alike["wrong"]) == (1, 1)


@pytest.mark.parametrize("right", [True, False])
def test_correlation_is_none_if_all_answers_are_alike(right):
    found = correlation(np.array([1.0, 2.0]), [right] * 2)
    assert found == {"spearman": None, "p_value": None, "right": None, "wrong": None}
