"""Metrics of a batch that describe values, rewards and samples; computed on the device."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sequencematch.core import reductions
from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import Objective, read_values, sequencematch, weights
from sequencematch.core.rewards import temporal_differences
from sequencematch.core.types import Trajectory, Values

Metrics = dict[str, Float[Array, ""] | Int[Array, ""]]


def describe(values: Values, trajectories: Trajectory, objective: Objective) -> Metrics:
    """Mean and extremes of V, Q and the implied reward r, and size of the temporal differences.

    All as J has them (`objective.read_values`): r_t = Q(s_t, a_t) - gamma V(s_{t+1}), and the
    differences are V(s_t) - gamma V(s_{t+1}). V is over all states, the last one included; the others
    are over the decisions. `reward/capped` is the share
    of rewards below the floor, where phi is a line of slope t_max.

    Args:
      values: Q and V of the batch, [B, T].
      trajectories: the batch, fields [B, ...].
      objective: J.
    """
    gamma, floor = objective.gamma, objective.divergence.floor(objective.t_max)
    values, reward = jax.vmap(partial(read_values, objective))(values, trajectories)
    valid = trajectories.valid
    # V(s_N) is read by the loss, though nothing is decided there.
    reached = valid | (jnp.arange(valid.shape[1]) == trajectories.end[:, None])
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


def weighted_log_likelihood(
    objective: Objective, values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """sum_t kappa_t log pi(a_t|s_t) over the imitated steps of one trajectory."""
    kappa = weights(objective, trajectory)
    return reductions.total(kappa * (values.q - values.v), trajectory.imitate)


def distance_from_mle(
    objective: Objective,
    expert: tuple[Values, Trajectory],
    policy: tuple[Values, Trajectory] | None = None,
) -> Metrics:
    """How far J is from maximum likelihood: |dJ/d(Q,V) - dL/d(Q,V)| / |dL/d(Q,V)| over the batch.

    L = (1/n) sum_t kappa_t log pi(a_t|s_t) over the imitated steps is the limit of J as alpha -> 0
    (docs/mathematics.md, section 9). The gradients are those of the 2 numbers a step that the losses
    read, so no pass through the network is needed.

    Args:
      objective: J.
      expert, policy: values and trajectories of the batch, as `objective.sequencematch` takes them; in
        steps without samples the expert's part of J is compared.
    """
    if policy is None:  # the expert's part of J alone, also where J needs samples
        objective = objective._replace(divergence=objective.divergence._replace(psi=None))
    trajectories = [part[1] for part in (expert, policy) if part]
    read = [part[0] for part in (expert, policy) if part]

    def J(values: list[Values]) -> Array:
        pairs = list(zip(values, trajectories, strict=True))
        return sequencematch(objective, pairs[0], pairs[1] if policy else None)

    def L(values: list[Values]) -> Array:
        summed = jax.vmap(partial(weighted_log_likelihood, objective))(values[0], expert[1])
        return jnp.sum(summed) / reductions.count_imitated(expert[1])

    dJ, dL = jax.grad(J)(read), jax.grad(L)(read)
    return {"objective/not_mle": optax.tree.norm(optax.tree.sub(dJ, dL)) / optax.tree.norm(dL)}


def _spread(name: str, x: Array, mask: Array) -> Metrics:
    low, high = reductions.extremes(x, mask)
    return {f"{name}/mean": reductions.mean(x, mask), f"{name}/min": low, f"{name}/max": high}


def policy_statistics(
    mdp: Mdp, values: Values, trajectories: Trajectory, ages: Array, objective: Objective
) -> Metrics:
    """Implied reward, length, share of edits and age in steps of the samples of a batch.

    `policy/finished` is the share of samples that end in `<eos>`; the others were cut.
    """
    _, reward = jax.vmap(partial(read_values, objective))(values, trajectories)
    edits = jnp.asarray(mdp.pops)[trajectories.actions] > 0
    return {
        "policy/reward_mean": reductions.mean(reward, trajectories.valid),
        "policy/length": jnp.mean(trajectories.end - trajectories.start),
        "policy/finished": jnp.mean(trajectories.finished),
        "policy/edits": reductions.mean(edits.astype(jnp.float32), trajectories.valid),
        "replay/age": jnp.mean(ages),
    }
