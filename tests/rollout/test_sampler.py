"""Cached sampling with edits against scoring without a cache."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core.trajectory import build_trajectory
from sequencematch.rollout import sampler
from tests import oracles
from tests.rollout.samples import (
    ACTIONS,
    BOS,
    EDITS,
    EOS,
    LETTERS,
    MDP,
    PAD,
    RESET,
    ROWS,
    WIDTH,
    decision_mask,
    finished_rows,
    read,
    rows,
    sample,
    score,
    to_numpy,
)

HOW = sampler.Sampling(ACTIONS)


def test_samples_hold_edits_ends_and_cuts(samples):
    """Many edits, some of them at the prompt; some rows ended, others were cut."""
    episodes, _ = samples
    used, at_prompt, longest = Counter(), 0, 0
    for prompt, actions in rows(episodes):
        states = oracles.texts(prompt, actions, EDITS)
        for text, action in zip(states, actions, strict=False):
            used[action] += 1
            at_prompt += action in EDITS and len(text) == len(prompt)
            longest = max(longest, (action == RESET) * (len(text) - len(prompt)))
    assert min(used[edit] for edit in EDITS) > 15 and at_prompt > 10 and longest > 2
    assert sum(used[token] for token in LETTERS) > 50
    assert 3 < finished_rows(episodes).sum() < ROWS - 3


# The law.


@pytest.mark.parametrize("which", ["samples", "greedy_samples"])
def test_cached_log_probabilities_equal_those_of_the_trajectory_pass(model, request, which):
    episodes, log_probs = request.getfixturevalue(which)
    log_pi = jax.nn.log_softmax(score(model, episodes))
    scored = np.take_along_axis(np.asarray(log_pi), episodes.labels[..., None], axis=-1)[..., 0]
    taken = decision_mask(episodes)
    np.testing.assert_allclose(log_probs[taken], scored[taken], atol=1e-4)
    assert (log_probs[~taken] == 0).all()
    # The probabilities vary widely, so that agreement is no accident.
    assert np.ptp(scored[taken]) > 1


# The layout of episodes.


def test_episode_is_prompt_then_actions_then_padding(samples, prompts):
    episodes, log_probs = samples
    tokens, start = prompts
    slot = np.arange(WIDTH + ACTIONS)
    assert episodes.tokens.shape == log_probs.shape == (ROWS, WIDTH + ACTIONS)
    np.testing.assert_array_equal(episodes.start, start)
    for row, (prompt, actions) in enumerate(rows(episodes)):
        assert prompt == tokens[row, : start[row] + 1].tolist()
        assert EOS not in actions[:-1]
        assert len(actions) == ACTIONS or actions[-1] == EOS
    assert (episodes.tokens[slot > episodes.end[:, None]] == PAD).all()
    taken = decision_mask(episodes)
    executed = np.roll(episodes.tokens, -1, axis=1)
    np.testing.assert_array_equal(episodes.labels[taken], executed[taken])
    assert MDP.legal[episodes.labels].all()
    assert not episodes.imitate.any()
    trajectories = jax.jit(jax.vmap(partial(build_trajectory, MDP)))(episodes)
    np.testing.assert_array_equal(trajectories.finished, finished_rows(episodes))


def test_illegal_action_is_never_taken(model, samples, greedy_samples):
    """Although their logits are the highest."""
    for episodes, _ in (samples, greedy_samples):
        likeliest = np.asarray(read(model, episodes)).argmax(-1)
        assert np.isin(likeliest[decision_mask(episodes)], [PAD, BOS]).mean() > 0.9
        assert MDP.legal[[a for _, actions in rows(episodes) for a in actions]].all()


@pytest.mark.stress
def test_prompt_is_never_popped(model, prompts):
    """Neither its depths nor its part of the cache change, decision by decision."""
    start = np.asarray(prompts[1])
    begin = nnx.jit(partial(sampler.begin, how=HOW))
    advance = nnx.jit(partial(sampler.advance, mdp=MDP, how=HOW))
    first = generation = begin(model, *map(jnp.asarray, prompts), jax.random.key(0))
    inside = np.arange(WIDTH + ACTIONS) <= start[:, None]
    empty = 0
    for _ in range(ACTIONS):
        generation = advance(model, generation=generation)
        assert (generation.depth >= start).all()
        empty += (np.asarray(generation.depth) == start).sum()
        np.testing.assert_array_equal(generation.hidden[inside], first.hidden[inside])
        for now, then in zip(generation.cache, first.cache, strict=True):
            for x, y, slots in ((now.k, then.k, 3), (now.v, then.v, 2)):
                x, y = (np.moveaxis(each, slots, 1)[inside] for each in (x, y))
                np.testing.assert_array_equal(x, y)
    assert empty > ROWS
    # The final depth is that of the stack machine.
    for row, (prompt, actions) in enumerate(rows(to_numpy(sampler.episodes(MDP, generation)))):
        assert generation.depth[row] == len(oracles.texts(prompt, actions, EDITS)[-1]) - 1


# Randomness.


def test_row_is_independent_of_the_others(model, prompts, samples):
    """Other prompts in the other rows, and wider padding, change nothing in a row."""
    tokens, start = (x.copy() for x in prompts)
    mine = np.arange(ROWS) % 3 == 1
    tokens[~mine], start[~mine] = np.roll(tokens[~mine], 1, axis=0), np.roll(start[~mine], 1)
    others, log_probs = to_numpy(sample(model, tokens, start, jax.random.key(0)))
    np.testing.assert_array_equal(others.tokens[mine], samples[0].tokens[mine])
    np.testing.assert_allclose(log_probs[mine], samples[1][mine], atol=1e-5)
    assert (others.tokens[~mine] != samples[0].tokens[~mine]).any()
    wide, _ = to_numpy(
        sample(model, np.pad(prompts[0], [(0, 0), (0, 2)]), prompts[1], jax.random.key(0))
    )
    np.testing.assert_array_equal(wide.tokens[:, :-2], samples[0].tokens)
    np.testing.assert_array_equal(wide.end, samples[0].end)


def test_samples_are_draws_from_the_policy_itself(model, samples):
    """At each decision t of row b: the categorical draw of the logits with key (b, t), and no more."""
    episodes, _ = samples
    logits, taken = score(model, episodes), decision_mask(episodes)
    by_row = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(ROWS))
    time = jnp.arange(WIDTH + ACTIONS) - episodes.start[:, None]
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(by_row, time)
    drawn = np.asarray(
        jax.vmap(jax.vmap(partial(jax.random.categorical, mode="high")))(keys, logits)
    )
    np.testing.assert_array_equal(drawn[taken], episodes.labels[taken])


def test_samples_carry_no_memory(model, prompts):
    """So that sampling to learn from costs nothing for it."""

    def begin_and_advance(model, *prompts):
        first = sampler.begin(model, *prompts, jax.random.key(0), HOW)
        return first, sampler.advance(model, MDP, first, HOW)

    shapes = nnx.eval_shape(begin_and_advance, model, *map(jnp.asarray, prompts))
    assert [generation.memory for generation in shapes] == [None, None]


def test_samples_are_a_function_of_the_key(model, prompts, samples):
    again, _ = to_numpy(sample(model, *prompts, jax.random.key(0)))
    other, _ = to_numpy(sample(model, *prompts, jax.random.key(1)))
    np.testing.assert_array_equal(again.tokens, samples[0].tokens)
    assert (other.tokens != again.tokens).any()


def test_rows_and_decisions_draw_independently(model, prompts):
    """With the same prompt in every row, rows differ, and so do their first actions."""
    tokens, start = (np.repeat(x[4:5], ROWS, axis=0) for x in prompts)
    episodes, _ = to_numpy(sample(model, tokens, start, jax.random.key(2)))
    assert len({tuple(actions) for _, actions in rows(episodes)}) > ROWS // 2
    assert len({actions[0] for _, actions in rows(episodes)}) > 2
