"""Objectives on trajectories: maximum likelihood, and SequenceMatch's estimator (section 3.2).

The implied reward of a step is r_t = l(a_t|s_t) - gamma V(s_{t+1}). With weights kappa_t (gamma^t,
or 1), decisions t = 0..N-1 and last state s_N, one formula serves every case:

    J = sum_t kappa_t phi(alpha r_t)/alpha + kappa_N B(s_N)                         expert
        - (1-w) C(tau_E) - w C(tau_pi)
        + sum_t kappa_t psi(alpha r_t)/alpha + kappa_N psi(alpha (1-gamma) V(s_N)) / (alpha (1-gamma))
                                                                                    policy

    C(tau) = sum_t kappa_t (V(s_t) - gamma V(s_{t+1})) + kappa_N V(s_N)

The functions below are per trajectory; `sequencematch` sums them over a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sequencematch.core import masked
from sequencematch.core.divergences import Divergence
from sequencematch.core.types import Trajectory, Values


class Weighting(NamedTuple):
    """How much a step counts, and what that makes of the sum of temporal differences.

    Attributes:
      kappa: (gamma, decisions since the start) -> weight.
      cost: (objective, values, trajectory) -> C(tau).
      telescopes: whether C(tau) = V(s_0) whatever was sampled, so that w is inert.
    """

    kappa: Callable[[float, Array], Array]
    cost: Callable[["Objective", Values, Trajectory], Array]
    telescopes: bool


class Objective(NamedTuple):
    """SequenceMatch's objective J.

    Attributes:
      divergence: D_f, as a value of `divergences`.
      alpha: scale of the reward, > 0; small values are close to maximum likelihood.
      gamma: discount in (0, 1).
      policy_weight: w in [0, 1], share of C taken on the policy's own trajectories.
      weighting: a value of `WEIGHTINGS`.
    """

    divergence: Divergence
    alpha: float
    gamma: float
    policy_weight: float
    weighting: Weighting

    @property
    def needs_samples(self) -> bool:
        """Whether the policy's own trajectories change the objective at all."""
        inert = self.policy_weight == 0 or self.weighting.telescopes
        return self.divergence.psi is not None or not inert


def weights(objective: Objective, trajectory: Trajectory) -> Float[Array, " T"]:
    """kappa_t at slot-time t."""
    time = jnp.arange(trajectory.tokens.shape[0]) - trajectory.start
    return objective.weighting.kappa(objective.gamma, jnp.maximum(time, 0).astype(jnp.float32))


def rewards(values: Values, trajectory: Trajectory, gamma: float) -> Float[Array, " T"]:
    """The implied reward r_t = l(a_t|s_t) - gamma V(s_{t+1}) at each decision; 0 elsewhere."""
    return jnp.where(trajectory.valid, values.q - gamma * jnp.roll(values.v, -1), 0.0)


def temporal_differences(
    values: Values, trajectory: Trajectory, gamma: float
) -> Float[Array, " T"]:
    """V(s_t) - gamma V(s_{t+1}) at each decision; 0 elsewhere."""
    return jnp.where(trajectory.valid, values.v - gamma * jnp.roll(values.v, -1), 0.0)


def start_value(objective: Objective, values: Values, trajectory: Trajectory) -> Float[Array, ""]:
    """C(tau) under discounted weights, where the sum telescopes to V(s_0)."""
    return values.v[trajectory.start]


def summed_differences(
    objective: Objective, values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """C(tau) as it is written: every temporal difference, and the value of the last state."""
    kappa = weights(objective, trajectory)
    differences = temporal_differences(values, trajectory, objective.gamma)
    return jnp.sum(kappa * differences) + kappa[trajectory.end] * values.v[trajectory.end]


discounted = Weighting(lambda gamma, time: gamma**time, start_value, telescopes=True)
uniform = Weighting(lambda gamma, time: jnp.ones_like(time), summed_differences, telescopes=False)

WEIGHTINGS = {"discounted": discounted, "uniform": uniform}


def absorbed(
    transform: Callable[[Array], Array], objective: Objective, value: Float[Array, ""]
) -> Float[Array, ""]:
    """What a finished trajectory earns for ever: sum_t gamma^t g(alpha (1-gamma) V)/alpha.

    In the absorbing state each step's reward is V - gamma V = (1-gamma) V(s_N).
    """
    scale = objective.alpha * (1 - objective.gamma)
    return transform(scale * value) / scale


def expert_objective(
    objective: Objective, values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """The expert's part of J: sum_t kappa_t phi(alpha r_t)/alpha + kappa_N B(s_N) - (1-w) C(tau).

    B(s_N) is what the absorbing state earns if `<eos>` ended the trajectory, and V(s_N) if it was
    cut: without that bootstrap a cut pays for low values.
    """
    phi, alpha = objective.divergence.phi, objective.alpha
    kappa, last = weights(objective, trajectory), values.v[trajectory.end]
    earned = phi(alpha * rewards(values, trajectory, objective.gamma)) / alpha
    ending = jnp.where(trajectory.finished, absorbed(phi, objective, last), last)
    cost = objective.weighting.cost(objective, values, trajectory)
    return (
        masked.total(kappa * earned, trajectory.imitate)
        + kappa[trajectory.end] * ending
        - (1 - objective.policy_weight) * cost
    )


def policy_objective(
    objective: Objective, values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """The policy's part of J: -w C(tau), and the psi terms of a mixture divergence.

    V(s_N) stays in C for cut samples: without it the objective pays for never ending.
    """
    psi, alpha = objective.divergence.psi, objective.alpha
    cost = objective.policy_weight * objective.weighting.cost(objective, values, trajectory)
    if psi is None:
        return -cost
    kappa, last = weights(objective, trajectory), values.v[trajectory.end]
    penalty = psi(alpha * rewards(values, trajectory, objective.gamma)) / alpha
    ending = jnp.where(trajectory.finished, absorbed(psi, objective, last), 0.0)
    return masked.total(kappa * penalty, trajectory.valid) + kappa[trajectory.end] * ending - cost


def log_likelihood(values: Values, trajectory: Trajectory) -> Float[Array, ""]:
    """Sum over imitated steps of log pi(a_t|s_t) = l(a_t|s_t) - V(s_t)."""
    return masked.total(values.q - values.v, trajectory.imitate)


def behavioural_cloning(values: Values, trajectories: Trajectory) -> Float[Array, ""]:
    """Mean negative log-likelihood of the imitated steps of a batch, in nats per step.

    On clean data and an action set without edits this is maximum likelihood.
    """
    likelihoods = jax.vmap(log_likelihood)(values, trajectories)
    return -jnp.sum(likelihoods) / imitated(trajectories)


def sequencematch(
    objective: Objective,
    expert: tuple[Values, Trajectory],
    policy: tuple[Values, Trajectory] | None,
) -> Float[Array, ""]:
    """J over a batch, to be maximised, per imitated step.

    Args:
      objective: what is maximised.
      expert: values and trajectories of the data, batched.
      policy: those sampled from the policy, batched; None for an objective that needs no samples: all
        of C is then taken on the expert's trajectories.
    """
    if policy is None:
        objective = objective._replace(policy_weight=0.0)
    value = jnp.sum(jax.vmap(lambda v, t: expert_objective(objective, v, t))(*expert))
    if policy is not None:
        samples = jax.vmap(lambda v, t: policy_objective(objective, v, t))(*policy)
        value += jnp.sum(samples) * expert[1].end.shape[0] / policy[1].end.shape[0]
    return value / imitated(expert[1])


def imitated(trajectories: Trajectory) -> Float[Array, ""]:
    """Number of imitated steps of a batch: what every sum is divided by, once."""
    return jnp.maximum(jnp.sum(trajectories.imitate), 1).astype(jnp.float32)
