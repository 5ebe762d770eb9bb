"""Metrics of a batch that describe values, rewards and samples; computed on the device.

Metrics of parts of a batch are merged before they are divided, so they equal those of the whole.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sequencematch.core import reductions
from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import Objective, read_values, sequencematch, weights
from sequencematch.core.reductions import Mean
from sequencematch.core.rewards import temporal_differences
from sequencematch.core.types import Trajectory, Values

Metrics = dict[str, Float[Array, ""] | Int[Array, ""]]


class Root(NamedTuple):
    """The square root of a mean, or of a ratio of sums, that is not divided yet."""

    total: Float[Array, ""]
    count: Float[Array, ""]

    @property
    def value(self) -> Float[Array, ""]:
        """sqrt(total / count)."""
        return jnp.sqrt(Mean(*self).value)


class Least(NamedTuple):
    """A minimum."""

    value: Float[Array, ""]


class Most(NamedTuple):
    """A maximum."""

    value: Float[Array, ""]


Statistic = Mean | Root | Least | Most
Statistics = dict[str, Statistic]

# Of each kind the statistic of no rows at all, and how those of two parts become one.
EMPTY = {Mean: Mean(0.0, 0.0), Root: Root(0.0, 0.0), Least: Least(jnp.inf), Most: Most(-jnp.inf)}
_MERGE = {Mean: jnp.add, Root: jnp.add, Least: jnp.minimum, Most: jnp.maximum}


def merge(one: Statistics, other: Statistics) -> Statistics:
    """The statistics of two parts of a batch together."""
    return {
        name: jax.tree.map(_MERGE[type(found)], found, other[name]) for name, found in one.items()
    }


def read(statistics: Statistics) -> Metrics:
    """The value of each statistic."""
    return {name: found.value for name, found in statistics.items()}


def describe(values: Values, trajectories: Trajectory, objective: Objective) -> Statistics:
    """Mean and extremes of V, Q and the implied reward r, and size of the temporal differences.

    All as J has them (`objective.read_values`): r_t = Q(s_t, a_t) - gamma V(s_{t+1}), and the
    differences are V(s_t) - gamma V(s_{t+1}), with V(s_{t+1}) read through `next_value`. V is over all
    states, the last one included; the others are over the decisions. `reward/capped` is the share of
    rewards below the floor, where phi is a line of slope t_max.

    Args:
      values: Q and V of the batch, [B, T].
      trajectories: the batch, fields [B, ...].
      objective: J.
    """
    floor = objective.divergence.floor(objective.t_max)
    values, reward = jax.vmap(partial(read_values, objective))(values, trajectories)
    valid = trajectories.valid
    # V(s_N) is read by the loss, though nothing is decided there.
    reached = valid | (jnp.arange(valid.shape[1]) == trajectories.end[:, None])
    how = dict(gamma=objective.gamma, next_value=objective.next_value)
    difference = jax.vmap(partial(temporal_differences, **how))(values, trajectories)
    start = jnp.take_along_axis(values.v, trajectories.start[:, None], axis=1)
    return {
        **_spread("value", values.v, reached),
        "value/start": reductions.mean(start, jnp.ones_like(start, bool)),
        **_spread("q", values.q, valid),
        **_spread("reward", reward, valid),
        "reward/capped": reductions.mean((objective.alpha * reward < floor) * 1.0, valid),
        "td/mean": reductions.mean(difference, valid),
        "td/rms": Root(*reductions.mean(difference**2, valid)),
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
) -> Statistics:
    """How far J is from maximum likelihood: |dJ/d(Q,V) - dL/d(Q,V)| / |dL/d(Q,V)| over the batch.

    L = (1/n) sum_t kappa_t log pi(a_t|s_t) over the imitated steps is the limit of J as alpha -> 0 with
    discounted weights (docs/mathematics.md, section 9). The gradients are those of the 2 numbers a step
    that the losses read, so no pass through the network is needed. The n of both cancel.

    Args:
      objective: J.
      expert, policy: values and trajectories of the batch, as `objective.sequencematch` takes them; in
        steps without samples the expert's part of J is compared.
    """
    if policy is None:  # the expert's part of J alone, also where J needs samples
        divergence = objective.divergence._replace(psi=None)
        objective = objective._replace(divergence=divergence, policy_weight=0.0)
    values, trajectories = zip(*[expert, policy] if policy else [expert], strict=True)

    def J(values: Sequence[Values]) -> Array:
        return sequencematch(objective, *zip(values, trajectories, strict=True)).total

    def L(values: Sequence[Values]) -> Array:
        each = jax.vmap(partial(weighted_log_likelihood, objective))(values[0], trajectories[0])
        return jnp.sum(each)

    dJ, dL = jax.grad(J)(values), jax.grad(L)(values)
    distance, length = (optax.tree.norm(d, squared=True) for d in (optax.tree.sub(dJ, dL), dL))
    return {"objective/not_mle": Root(distance, length)}


def _spread(name: str, x: Array, mask: Array) -> Statistics:
    low, high = reductions.extremes(x, mask)
    mean = reductions.mean(x, mask)
    return {f"{name}/mean": mean, f"{name}/min": Least(low), f"{name}/max": Most(high)}


def policy_statistics(
    mdp: Mdp, values: Values, trajectories: Trajectory, ages: Array, objective: Objective
) -> Statistics:
    """Implied reward, length, share of edits and age in steps of the samples of a batch.

    `policy/finished` is the share of samples that end in `<eos>`; the others were cut.
    """
    _, reward = jax.vmap(partial(read_values, objective))(values, trajectories)
    edits = jnp.asarray(mdp.pops)[trajectories.actions] > 0
    rows = jnp.ones_like(trajectories.finished)

    def mean_of_rows(x: Array) -> Mean:
        return reductions.mean(x.astype(jnp.float32), rows)

    return {
        "policy/reward_mean": reductions.mean(reward, trajectories.valid),
        "policy/length": mean_of_rows(trajectories.end - trajectories.start),
        "policy/finished": mean_of_rows(trajectories.finished),
        "policy/edits": reductions.mean(edits.astype(jnp.float32), trajectories.valid),
        "replay/age": mean_of_rows(ages),
    }
