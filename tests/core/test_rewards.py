"""Implied rewards, returns and temporal differences against loops and identities."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from sequencematch.core.rewards import (
    bound_value,
    recovered_return,
    recovered_rewards,
    stop_gradient,
    temporal_differences,
)
from tests.core.batches import (
    CASES,
    EXPERT,
    POLICY,
    SLOTS,
    read,
)


def test_rewards_and_differences_equal_the_loop():
    values, trajectories = read(*EXPERT.arrays)
    rewards = jax.vmap(partial(recovered_rewards, gamma=0.8))(values, trajectories)
    differences = jax.vmap(partial(temporal_differences, gamma=0.8))(values, trajectories)
    for row, case in enumerate(CASES[0]):
        for t in range(SLOTS):
            if t in case.decisions:
                reward = case.reward(t, 0.8)
                difference = case.value(t) - 0.8 * case.value(t + 1)
            else:
                reward = difference = 0
            np.testing.assert_allclose(rewards[row, t], reward, atol=1e-5)
            np.testing.assert_allclose(differences[row, t], difference, atol=1e-5)


def test_reward_minus_difference_is_log_probability():
    """r - (V - gamma V') = l - V."""
    values, trajectories = read(*EXPERT.arrays)
    rewards = jax.vmap(partial(recovered_rewards, gamma=0.8))(values, trajectories)
    differences = jax.vmap(partial(temporal_differences, gamma=0.8))(values, trajectories)
    expected = np.where(trajectories.valid, values.q - values.v, 0)
    np.testing.assert_allclose(rewards - differences, expected, atol=1e-5)


def test_recovered_return_is_discounted_likelihood_plus_start_value():
    """sum_t gamma^t r_t + gamma^N V(s_N) = sum_t gamma^t log pi(a_t|s_t) + V(s_0)."""
    for batch, cases in ((EXPERT, CASES[0]), (POLICY, CASES[1])):
        values, trajectories = read(*batch.arrays)
        returns = jax.vmap(partial(recovered_return, gamma=0.8))(values, trajectories)
        for actual, case in zip(returns, cases, strict=True):
            start = case.track.start
            steps = [0.8 ** (t - start) * (case.q(t) - case.value(t)) for t in case.decisions]
            np.testing.assert_allclose(actual, sum(steps) + case.value(start), atol=1e-4)


def test_bound_value_clips_and_has_no_gradient_beyond_the_bound():
    clip = bound_value(2.0, 0.9)
    v = jnp.array([-1e4, -20.0, -19.9, 0.0, 19.9, 20.1, 1e4])
    np.testing.assert_allclose(clip(v), np.clip(v, -20, 20), rtol=1e-5)
    slope = jax.grad(lambda v: clip(v).sum())(v)
    np.testing.assert_array_equal(slope[jnp.array([0, 2, 3, 4, 5, 6])], [0, 1, 1, 1, 0, 0])
    # Without a gradient inside the bound, none is left anywhere.
    still = bound_value(2.0, 0.9, stop_gradient)
    assert not jax.grad(lambda v: still(v).sum())(v).any()
