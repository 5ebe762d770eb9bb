"""Hard negatives: where wrong tokens are, how they are drawn, and what replacing them changes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core import hard_negatives, mdp
from sequencematch.core.hard_negatives import replace_wrong_tokens, wrong_logits
from sequencematch.core.trajectory import build_trajectory
from sequencematch.data.noise import add_noise, fix_by_popping
from sequencematch.rollout import decoding
from tests import oracles
from tests.goodness_of_fit import assert_counts_fit

PAD, BOS, EOS, BKSPC = range(4)
LETTERS = range(4, 10)
POP_TWO, RESET, POP_THREE = 10, 11, 12
EDITS = {BKSPC: 1, POP_TWO: 2, POP_THREE: 3, RESET: mdp.EVERYTHING}
V, SLOTS = 13, 40
MDP = mdp.make(V, eos=EOS, pad=PAD, never=[BOS], edits=EDITS)


@pytest.fixture(scope="module")
def episodes():
    """Noised texts as a batch with room to spare."""
    rng, wrong, rows = np.random.default_rng(0), [5, 6, 9], []
    cleans = [[*map(int, rng.choice(LETTERS, size=rng.integers(0, 6))), EOS] for _ in range(300)]
    for clean in cleans:
        decisions = add_noise(
            rng,
            clean,
            eta=0.4,
            run=0.4,
            wrong=wrong,
            fix=fix_by_popping({BKSPC: 1}),
            step="clean",
            limit=10**6,
        )
        if len(decisions.executed) < SLOTS - 4:
            rows.append((decisions.executed, decisions.labels))
    assert len(rows) > 200
    return oracles.stack_episodes(
        [
            oracles.lay_out_episode([BOS, 7], executed, labels, slots=SLOTS, filler=EOS)
            for executed, labels in rows
        ]
    )


@pytest.fixture(scope="module")
def trajectories(episodes):
    return build(episodes)


@jax.jit
def build(episodes):
    return jax.vmap(partial(build_trajectory, MDP))(episodes)


@jax.jit
def wrong_steps(trajectories):
    return jax.vmap(partial(hard_negatives.wrong_steps, MDP))(trajectories)


@jax.jit
def replace(trajectories, z):
    return jax.vmap(partial(replace_wrong_tokens, MDP))(trajectories, z)


@jax.jit
def draw(logits, right, keys):
    return jax.vmap(decoding.draw, (0, None))(keys, wrong_logits(MDP, logits, right))


def draw_many(logits, right, count=4000):
    keys = jax.random.split(jax.random.key(5), count)
    return np.asarray(draw(jnp.asarray(logits, jnp.float32), jnp.int32(right), keys))


def test_wrong_steps_are_where_action_and_label_differ(episodes, trajectories):
    found = np.asarray(wrong_steps(trajectories))
    for row in range(len(found)):
        tokens, start, end = episodes.tokens[row], episodes.start[row], episodes.end[row]
        acted = [
            start <= t < end and tokens[t + 1] != episodes.labels[row, t] for t in range(SLOTS)
        ]
        assert found[row].tolist() == acted


def test_executed_edit_or_eos_is_no_wrong_step():
    """Only ordinary tokens are replaced, even where an edit or `<eos>` differs from its label."""
    episode = oracles.lay_out_episode([BOS], [4, BKSPC, EOS], [4, 5, 5], slots=SLOTS, filler=EOS)
    assert not np.asarray(wrong_steps(build(oracles.stack_episodes([episode])))).any()


def test_wrong_token_is_ordinary_and_not_the_right_one():
    """Even if nearly all of the policy's probability is on ids that may not be drawn."""
    logits = np.zeros(V)
    logits[[PAD, BOS, BKSPC, POP_TWO, RESET, POP_THREE, EOS, 6]] = 50.0
    assert set(draw_many(logits, 6)) == set(LETTERS) - {6}
    assert set(draw_many(logits, EOS)) <= set(LETTERS)
    # After a first wrong token the right action is an edit, so any ordinary token is wrong.
    assert set(draw_many(np.zeros(V), BKSPC)) == set(LETTERS)


def test_wrong_tokens_follow_the_policy():
    """P(z) = pi(z|s) over the ordinary tokens other than the right one, renormalised."""
    logits = np.random.default_rng(6).normal(size=V)
    right, count = 7, 20_000
    counts = np.bincount(draw_many(logits, right, count), minlength=V)
    allowed = [z for z in LETTERS if z != right]
    p = np.exp(logits[allowed]) / np.exp(logits[allowed]).sum()
    assert counts.sum() == counts[allowed].sum()
    assert_counts_fit(counts[allowed], p)


def test_certain_policy_determines_the_wrong_token():
    for z in (4, 9):
        logits = np.where(np.arange(V) == z, 100.0, 0.0)
        assert (draw_many(logits, 6) == z).all()


def test_replacing_changes_only_the_tokens_at_wrong_steps(trajectories):
    rng = np.random.default_rng(8)
    where = np.asarray(wrong_steps(trajectories))
    z = rng.choice(LETTERS, size=where.shape).astype(np.int32)
    replaced = replace(trajectories, z)
    expected = np.array(trajectories.tokens)
    row, time = np.nonzero(where)
    expected[row, time + 1] = z[row, time]
    np.testing.assert_array_equal(replaced.tokens, expected)
    assert (expected != np.asarray(trajectories.tokens)).sum() > 100
    for name in set(trajectories._fields) - {"tokens"}:
        assert getattr(replaced, name) is not None
        np.testing.assert_array_equal(getattr(replaced, name), getattr(trajectories, name))


def test_replacing_equals_building_from_the_replaced_tokens(episodes, trajectories):
    rng = np.random.default_rng(9)
    z = rng.choice(LETTERS, size=episodes.tokens.shape).astype(np.int32)
    replaced = replace(trajectories, z)
    tokens = np.where(np.arange(SLOTS) <= episodes.end[:, None], replaced.tokens, EOS)
    rebuilt = build(episodes._replace(tokens=tokens))
    for name in rebuilt._fields:
        np.testing.assert_array_equal(getattr(replaced, name), getattr(rebuilt, name), name)
