"""Metrics of a batch that describe values, rewards and samples; computed on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sequencematch.core import reductions
from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import Objective
from sequencematch.core.rewards import recovered_rewards, temporal_differences
from sequencematch.core.types import Trajectory, Values

Metrics = dict[str, Float[Array, ""] | Int[Array, ""]]


def describe(values: Values, trajectories: Trajectory, objective: Objective) -> Metrics:
    """Mean and extremes of V, Q and the implied reward r, and size of the temporal differences.

    r_t = Q(s_t, a_t) - gamma V(s_{t+1}), and the differences are V(s_t) - gamma V(s_{t+1}). V is over
    all states, the last one included; the others are over the decisions. `reward/capped` is the share
    of rewards below the floor, where phi is a line of slope t_max.

    Args:
      values: Q and V of the batch, [B, T].
      trajectories: the batch, fields [B, ...].
      objective: its alpha, gamma and divergence.
    """
    gamma, floor = objective.gamma, objective.divergence.floor(objective.t_max)
    valid = trajectories.valid
    # V(s_N) is read by the loss, though nothing is decided there.
    reached = valid | (jnp.arange(valid.shape[1]) == trajectories.end[:, None])
    reward = jax.vmap(recovered_rewards, (0, 0, None))(values, trajectories, gamma)
    difference = jax.vmap(temporal_differences, (0, 0, None))(values, trajectories, gamma)
    start = jnp.take_along_axis(values.v, trajectories.start[:, None], axis=1)
    return {
        **_spread("value", values.v, reached),
        "value/start": jnp.mean(start),
        **_spread("q", values.q, valid),
        **_spread("reward", reward, valid),
        "reward/capped": reductions.mean((objective.alpha * reward < floor) * 1.0, valid),
        "td/mean": reductions.mean(difference, valid),
        "td/rms": jnp.sqrt(reductions.mean(difference**2, valid)),
    }


def _spread(name: str, x: Array, mask: Array) -> Metrics:
    low, high = reductions.extremes(x, mask)
    return {f"{name}/mean": reductions.mean(x, mask), f"{name}/min": low, f"{name}/max": high}


def policy_statistics(
    mdp: Mdp, values: Values, trajectories: Trajectory, ages: Array, gamma: float
) -> Metrics:
    """Implied reward, length, share of edits and age in steps of the samples of a batch.

    `policy/finished` is the share of samples that end in `<eos>`; the others were cut.
    """
    reward = jax.vmap(recovered_rewards, (0, 0, None))(values, trajectories, gamma)
    edits = jnp.asarray(mdp.pops)[trajectories.actions] > 0
    return {
        "policy/reward_mean": reductions.mean(reward, trajectories.valid),
        "policy/length": jnp.mean(trajectories.end - trajectories.start),
        "policy/finished": jnp.mean(trajectories.finished),
        "policy/edits": reductions.mean(edits.astype(jnp.float32), trajectories.valid),
        "replay/age": jnp.mean(ages),
    }
