"""Objectives on trajectories: maximum likelihood, and SequenceMatch's estimator (arXiv 2306.05426).

The implied reward of a step is r_t = l(a_t|s_t) - gamma V(s_{t+1}). With weights kappa_t (gamma^t,
or 1), decisions t = 0..N-1 and last state s_N, one formula serves every case:

    J = sum_t kappa_t phi(alpha r_t)/alpha + kappa_N B(s_N)                         expert
        - (1-w) C(tau_E) - w C(tau_pi)
        + sum_t kappa_t psi(alpha r_t)/alpha + kappa_N psi(alpha (1-gamma) V(s_N)) / (alpha (1-gamma))
                                                                                    policy

    C(tau) = sum_t kappa_t (V(s_t) - gamma V(s_{t+1})) + kappa_N V(s_N)

At w = 0 with chi2, uniform weights and V(s_N) = 0 it is the TD-regularised maximum likelihood of
inverse RL (arXiv 2409.01369): sum_t log pi(a_t|s_t) - lambda r_t^2, lambda = alpha/4.

Functions here are per trajectory; `sequencematch`, `behavioural_cloning` and `unlikelihood` sum them
over a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sequencematch.core import reductions
from sequencematch.core.divergences import Divergence
from sequencematch.core.reductions import count_imitated
from sequencematch.core.rewards import (
    TERMINALS,
    ValueMap,
    pass_gradient,
    recovered_rewards,
    set_terminal_value,
    temporal_differences,
)
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


def weights(objective: "Objective", trajectory: Trajectory) -> Float[Array, " T"]:
    """kappa_t at slot-time t."""
    time = jnp.arange(trajectory.tokens.shape[0]) - trajectory.start
    return objective.weighting.kappa(objective.gamma, jnp.maximum(time, 0).astype(float))


def start_value(objective: "Objective", values: Values, trajectory: Trajectory) -> Float[Array, ""]:
    """C(tau) under discounted weights, where the sum telescopes to V(s_0)."""
    return values.v[trajectory.start]


def summed_differences(
    objective: "Objective", values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """C(tau) as it is written: every temporal difference, and the value of the last state."""
    return _cost(objective, values, trajectory, jnp.ones_like(trajectory.valid))


def kept_differences(
    objective: "Objective", values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """C(tau_E) over the imitated steps alone, when noise steps are skipped.

    A skipped step leads to a state that the expert's action would not have led to: with V(s_0) for C
    the objective would pay for V there.
    """
    return _cost(objective, values, trajectory, trajectory.imitate)


def _cost(objective: "Objective", values: Values, trajectory: Trajectory, counted: Array) -> Array:
    kappa = weights(objective, trajectory)
    differences = temporal_differences(values, trajectory, objective.gamma)
    summed = reductions.total(kappa * differences, counted)
    return summed + kappa[trajectory.end] * values.v[trajectory.end]


discounted = Weighting(lambda gamma, time: gamma**time, start_value, telescopes=True)
uniform = Weighting(lambda gamma, time: jnp.ones_like(time), summed_differences, telescopes=False)
WEIGHTINGS = {"discounted": discounted, "uniform": uniform}


def without_noise_steps(weighting: Weighting) -> Weighting:
    """The weighting where noise steps are left out of the expert's sums (w = 0 only)."""
    return weighting._replace(cost=kept_differences)


class Objective(NamedTuple):
    """SequenceMatch's objective J; its choices are values, not branches.

    Attributes:
      divergence: D_f, as a value of `divergences`.
      alpha: scale of the reward, > 0; small values are close to maximum likelihood.
      gamma: discount in (0, 1).
      policy_weight: w in [0, 1], share of C taken on the policy's own trajectories.
      weighting: a value of `WEIGHTINGS`, or `skipping` one.
      terminal: V(s_N) of a finished trajectory, of what the network says: a value of `TERMINALS`.
      next_value: what r_t reads V(s_{t+1}) through: `flowing`, `stopped`, or a `bounded` one.
      t_max: largest slope of phi, the largest ratio rho_pi/rho_E that is told from larger ones.
    """

    divergence: Divergence
    alpha: float
    gamma: float
    policy_weight: float = 0.5
    weighting: Weighting = discounted
    terminal: ValueMap = TERMINALS["learned"]
    next_value: ValueMap = pass_gradient
    t_max: float = 100.0

    @property
    def needs_samples(self) -> bool:
        """Whether the policy's own trajectories change the objective at all."""
        inert = self.policy_weight == 0 or self.weighting.telescopes
        return self.divergence.psi is not None or not inert

    def phi(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The divergence's phi, with slopes up to t_max."""
        return self.divergence.capped_phi(x, self.t_max)


def absorbing_reward(transform: ValueMap, objective: Objective, value: Float[Array, ""]) -> Array:
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
    values, alpha = set_terminal_value(objective.terminal, values, trajectory), objective.alpha
    kappa, last = weights(objective, trajectory), values.v[trajectory.end]
    reward = recovered_rewards(values, trajectory, objective.gamma, objective.next_value)
    ending = jnp.where(trajectory.finished, absorbing_reward(objective.phi, objective, last), last)
    cost = objective.weighting.cost(objective, values, trajectory)
    return (
        reductions.total(kappa * objective.phi(alpha * reward) / alpha, trajectory.imitate)
        + kappa[trajectory.end] * ending
        - (1 - objective.policy_weight) * cost
    )


def policy_objective(
    objective: Objective, values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """The policy's part of J: -w C(tau), and the psi terms of a mixture divergence.

    V(s_N) stays in C for cut samples: without it the objective pays for never ending.
    """
    values, alpha = set_terminal_value(objective.terminal, values, trajectory), objective.alpha
    psi = objective.divergence.psi
    cost = objective.policy_weight * objective.weighting.cost(objective, values, trajectory)
    if psi is None:
        return -cost
    kappa, last = weights(objective, trajectory), values.v[trajectory.end]
    reward = recovered_rewards(values, trajectory, objective.gamma, objective.next_value)
    ending = jnp.where(trajectory.finished, absorbing_reward(psi, objective, last), 0.0)
    penalty = reductions.total(kappa * psi(alpha * reward) / alpha, trajectory.valid)
    return penalty + kappa[trajectory.end] * ending - cost


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
    return value / count_imitated(expert[1])
