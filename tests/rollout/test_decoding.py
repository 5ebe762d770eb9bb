"""One decision: the distributions that a decoding defines, and the laws between its parts."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.rollout.decoding import BLOCK, Decoding, choose, draw
from tests.goodness_of_fit import assert_counts_fit
from tests.marks import stress
from tests.rollout.samples import (
    BKSPC,
    BOS,
    EDITS,
    EOS,
    LETTERS,
    MDP,
    PAD,
    decision_mask,
    sample,
    score,
    to_numpy,
)

V, COUNT = 12, 4000
DRAWN = Decoding(threshold=None, temperature=1.0)
LOGITS = np.random.default_rng(1).normal(size=(300, V)).astype(np.float32) * 1.5
LOGITS[:, [PAD, BOS]] = -np.inf
TOKENS = [EOS, *LETTERS]
NO_EDITS = Decoding(bias=-math.inf)


def policy(logits):
    """{action: pi(a|s)}, in double precision."""
    weights = {a: math.exp(logits[a]) for a in (*EDITS, *TOKENS)}
    return {a: weight / sum(weights.values()) for a, weight in weights.items()}


def odds_of_edits(p):
    """log P(edits) - log(1 - P(edits))."""
    edits = sum(p[a] for a in EDITS)
    return math.log(edits) - math.log(1 - edits)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def share(p, actions, power=1.0):
    """p^power, renormalised over some actions."""
    weights = {a: p[a] ** power for a in actions}
    return {a: weight / sum(weights.values()) for a, weight in weights.items()}


@partial(jax.jit, static_argnames="decoding")
def choose_rows(decoding, logits, banned):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(len(logits)))
    return jax.vmap(lambda row, key: choose(decoding, MDP, row, banned, key))(logits, keys)


def decide(decoding, logits, banned=()):
    """The actions chosen from rows of logits, each with a key of its own."""
    return np.asarray(choose_rows(decoding, logits, np.isin(np.arange(V), [*banned])))


def assert_drawn(decoding, expected, banned=()):
    """Asserts that many decisions at one state may be draws from {action: probability}."""
    actions = decide(decoding, np.tile(LOGITS[:1], (COUNT, 1)), banned)
    assert set(actions) <= set(expected)
    counts = np.bincount(actions, minlength=V)[list(expected)]
    assert_counts_fit(counts, [*expected.values()])


def test_a_draw_is_that_of_the_library():
    keys = jax.random.split(jax.random.key(3), len(LOGITS))
    for logits in (LOGITS, np.full_like(LOGITS, -np.inf)):
        expected = jax.vmap(partial(jax.random.categorical, mode="high"))(keys, logits)
        np.testing.assert_array_equal(jax.vmap(draw)(keys, logits), expected)


def test_draws_of_many_logits_follow_them():
    """Of three blocks, the last not full: each third, and, of the ids of all blocks, each remainder."""
    logits = np.random.default_rng(4).normal(size=3 * BLOCK - 8).astype(np.float32)
    keys = jax.random.split(jax.random.key(5), COUNT)
    found, ids = jax.vmap(draw, (0, None))(keys, jnp.asarray(logits)), np.arange(len(logits))
    p = np.exp(logits.astype(np.float64))
    for kinds in (ids // BLOCK, ids % 97):
        expected = np.bincount(kinds, p / p.sum())
        assert_counts_fit(np.bincount(kinds[found], minlength=len(expected)), expected)


def test_what_is_hardly_ever_drawn_is_drawn():
    """40,000 ids of probability below 2^-23 have .4 % together."""
    logits = jnp.full(40_001, -16.2).at[7].set(0.0)
    keys = jax.random.split(jax.random.key(6), COUNT)
    rare = np.sum(np.asarray(jax.vmap(draw, (0, None))(keys, logits)) != 7)
    p = 40_000 * math.exp(-16.2)
    assert p / 40_000 < 2**-23
    assert_counts_fit([COUNT - rare, rare], [1 / (1 + p), p / (1 + p)])


P = policy(LOGITS[0])
BY_EDIT, BY_TOKEN = share(P, EDITS), share(P, TOKENS)


def mixture(edits, tokens, probability):
    """With this probability one of the edits, else one of the tokens."""
    return {a: probability * x for a, x in edits.items()} | {
        a: (1 - probability) * x for a, x in tokens.items()
    }


def test_drawn_at_temperature_one_without_bias_follows_the_policy():
    assert_drawn(DRAWN, P)


@pytest.mark.parametrize("bias", [stress(-1.5), 2.0])
def test_bias_adds_to_the_log_odds_of_editing(bias):
    """Which edit and which token are drawn as before."""
    edits = sigmoid(odds_of_edits(P) + bias)
    assert abs(edits - sigmoid(odds_of_edits(P))) > 0.1
    assert_drawn(DRAWN._replace(bias=bias), mixture(BY_EDIT, BY_TOKEN, edits))
    # The same draws as with the bias in the logits of the edits.
    biased = LOGITS + np.float32(bias) * (MDP.pops > 0)
    for decoding in (DRAWN, Decoding()):
        with_bias = decide(decoding._replace(bias=bias), LOGITS)
        np.testing.assert_array_equal(with_bias, decide(decoding, biased))
        assert (with_bias != decide(decoding, LOGITS)).any()


@pytest.mark.parametrize("temperature", [0.4, stress(2.0)])
def test_temperature_is_of_tokens_and_leaves_edits_alone(temperature):
    tokens = share(P, TOKENS, 1 / temperature)
    expected = mixture(BY_EDIT, tokens, sigmoid(odds_of_edits(P)))
    assert_drawn(DRAWN._replace(temperature=temperature), expected)


def test_masked_edits_leave_the_policy_renormalised_over_the_others():
    assert_drawn(DRAWN._replace(bias=-math.inf), BY_TOKEN)
    assert not np.isin(decide(NO_EDITS, LOGITS), list(EDITS)).any()
    # The likeliest of the others; and where there are no edits at all, nothing else changes.
    best = np.array(TOKENS)[LOGITS[:, TOKENS].argmax(1)]
    np.testing.assert_array_equal(decide(NO_EDITS, LOGITS), best)
    without = np.where(MDP.pops > 0, -np.inf, LOGITS)
    np.testing.assert_array_equal(decide(Decoding(0.01, 3.0), without), best)


def test_banned_tokens_leave_the_odds_of_editing_alone():
    banned = [*LETTERS][:4]
    tokens = share(P, [a for a in TOKENS if a not in banned])
    assert_drawn(DRAWN, mixture(BY_EDIT, tokens, sigmoid(odds_of_edits(P))), banned)
    assert_drawn(DRAWN, tokens, [*banned, *EDITS])
    assert_drawn(DRAWN._replace(bias=3.0), BY_TOKEN, list(EDITS))


@pytest.mark.parametrize("bias", [0.0, 1.0, -0.7])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_greedy_edits_iff_they_are_likely_enough_and_takes_the_likeliest(threshold, bias):
    found, edited = decide(Decoding(threshold, bias), LOGITS), 0
    for logits, action in zip(LOGITS, found, strict=True):
        p = policy(logits)
        edits = sigmoid(odds_of_edits(p) + bias) > threshold
        assert action == max(EDITS if edits else TOKENS, key=p.get)
        edited += edits
    assert 3 < edited < 297


def test_greedy_may_edit_though_a_token_is_likeliest_and_the_other_way_round():
    best = LOGITS.argmax(1)
    edits = np.isin(decide(Decoding(), LOGITS), list(EDITS))
    assert (edits & ~np.isin(best, list(EDITS))).any()
    assert (~edits & np.isin(best, list(EDITS))).any()


@pytest.mark.parametrize("bias", [stress(-2.0), -0.3, stress(1.5)])
def test_bias_at_one_half_is_a_threshold(bias):
    np.testing.assert_array_equal(
        decide(Decoding(0.5, bias), LOGITS), decide(Decoding(sigmoid(-bias)), LOGITS)
    )


def test_smallest_temperature_takes_the_likeliest_token():
    """Without overflow; edits are still drawn."""
    tiny = DRAWN._replace(temperature=float(np.finfo(np.float32).tiny))
    actions = decide(tiny, LOGITS)
    is_edit = np.isin(actions, list(EDITS))
    assert 50 < is_edit.sum() < 250
    np.testing.assert_array_equal(actions[~is_edit], decide(NO_EDITS, LOGITS)[~is_edit])
    np.testing.assert_array_equal(
        decide(NO_EDITS._replace(temperature=1e-30), LOGITS), decide(NO_EDITS, LOGITS)
    )


# In the sampler.


@pytest.mark.stress
def test_first_actions_follow_the_policy(model):
    """Drawn at temperature 1 without a bias or memory; log-probabilities are the policy's."""
    count = 2000
    prompt = np.tile(np.array([BOS, 7, 9], np.int32), (count, 1))
    start = np.full(count, 2, np.int32)
    draw = partial(sample, model, prompt, start, jax.random.key(3), actions=1)
    for decoding in (DRAWN, None):
        episodes, log_probs = to_numpy(draw(decoding=decoding))
        first = episodes.labels[:, 2]
        p = policy(np.asarray(score(model, jax.tree.map(lambda x: x[:1], episodes)))[0, 2])
        np.testing.assert_allclose(log_probs[:, 2], [math.log(p[a]) for a in first], atol=1e-4)
        # The rare ones are counted together.
        often = [a for a in p if p[a] > 0.02]
        counts = [np.sum(first == a) for a in often]
        shares = [p[a] for a in often]
        assert_counts_fit([*counts, count - sum(counts)], [*shares, 1 - sum(shares)])


@pytest.mark.stress
def test_greedy_answers_follow_the_uncached_policy(model, greedy_samples):
    episodes, _ = greedy_samples
    logits, taken = np.asarray(score(model, episodes)), decision_mask(episodes)
    for row, action in zip(logits[taken], episodes.labels[taken], strict=True):
        p = policy(row)
        assert action == max(EDITS if odds_of_edits(p) > 0 else TOKENS, key=p.get)
    assert BKSPC in episodes.labels[taken] and EOS in episodes.labels[taken]
