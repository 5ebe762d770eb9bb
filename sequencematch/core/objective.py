"""SequenceMatch's objective J, estimated from trajectories (arXiv 2306.05426).

A trajectory tau has decisions t = 0..N-1 and a last state s_N. With weights kappa_t and the implied
rewards r_t = l(a_t|s_t) - gamma V(s_{t+1}), J is the sum of two parts, to be maximised:

    expert   sum_t kappa_t phi(alpha r_t)/alpha + kappa_N B(s_N) - (1-w) C(tau_E)
    policy   sum_t kappa_t psi(alpha r_t)/alpha + kappa_N B_psi(s_N) - w C(tau_pi)

    C(tau) = sum_t kappa_t (V(s_t) - gamma V(s_{t+1})) + kappa_N V(s_N)

B(s_N) is the credit of the last state (`absorbing_reward`; V(s_N) where an expert trajectory was cut).
B_psi has psi in place of phi, and is 0 where a policy trajectory was cut. A divergence without psi
leaves only -w C(tau_pi) of the policy's part. docs/mathematics.md, section 4, derives all of this.

With chi2, w = 0, uniform weights and V(s_N) = 0, J is the TD-regularised maximum likelihood of inverse
RL (arXiv 2409.01369): sum_t log pi(a_t|s_t) - lambda r_t^2 with lambda = alpha/4.

Functions take one trajectory; only `sequencematch` takes a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from sequencematch.core import reductions
from sequencematch.core.divergences import Divergence
from sequencematch.core.reductions import Mean
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
    """The weight of each decision, and the cost C(tau) that follows from it.

    Attributes:
      kappa: (gamma, decisions since the start) -> weight.
      cost: (objective, values, trajectory) -> C(tau).
      telescopes: whether the sum of C(tau) is V(s_0), where V(s_{t+1}) is read as it is.
    """

    kappa: Callable[[float, Array], Array]
    cost: Callable[["Objective", Values, Trajectory], Array]
    telescopes: bool


def weights(objective: "Objective", trajectory: Trajectory) -> Float[Array, " T"]:
    """kappa_t at slot-time t: gamma^(t - start) or 1."""
    time = jnp.arange(trajectory.tokens.shape[0]) - trajectory.start
    return objective.weighting.kappa(objective.gamma, jnp.maximum(time, 0).astype(float))


def start_value(objective: "Objective", values: Values, trajectory: Trajectory) -> Float[Array, ""]:
    """C(tau) = V(s_0), to which the sum in `summed_differences` telescopes under discounted weights."""
    if objective.next_value is not pass_gradient:  # then it does not
        return summed_differences(objective, values, trajectory)
    return values.v[trajectory.start]


def summed_differences(
    objective: "Objective", values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """C(tau) = sum_t kappa_t (V(s_t) - gamma V(s_{t+1})) + kappa_N V(s_N) over all decisions."""
    return _cost(objective, values, trajectory, jnp.ones_like(trajectory.valid))


def imitated_differences(
    objective: "Objective", values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """C(tau_E) as in `summed_differences`, but over the imitated steps only.

    For objectives that skip noise steps. A skipped step leads to a state to which the expert's action
    does not lead. If C counted a step that the rewards leave out, raising V there would raise J.
    """
    return _cost(objective, values, trajectory, trajectory.imitate)


def _cost(objective: "Objective", values: Values, trajectory: Trajectory, counted: Array) -> Array:
    kappa = weights(objective, trajectory)
    # V(s_{t+1}) as r_t reads it: else raising it would raise J, whatever the data hold.
    differences = temporal_differences(values, trajectory, objective.gamma, objective.next_value)
    summed = reductions.total(kappa * differences, counted)
    return summed + kappa[trajectory.end] * values.v[trajectory.end]


discounted = Weighting(lambda gamma, time: gamma**time, start_value, telescopes=True)
uniform = Weighting(lambda gamma, time: jnp.ones_like(time), summed_differences, telescopes=False)
WEIGHTINGS = {"discounted": discounted, "uniform": uniform}


def without_noise_steps(weighting: Weighting) -> Weighting:
    """The same weighting with noise steps left out of the expert's C; for w = 0 only."""
    return weighting._replace(cost=imitated_differences)


class Objective(NamedTuple):
    """The choices that define J.

    Attributes:
      divergence: D_f, a value of `divergences.DIVERGENCES`.
      alpha: scale of the reward, > 0; small values are close to maximum likelihood.
      gamma: discount in (0, 1].
      policy_weight: w in [0, 1], the share of C on the policy's trajectories, unless C telescopes.
      weighting: a value of `WEIGHTINGS`, or one of them through `without_noise_steps`.
      terminal: the network's V(s_N) -> that of a finished trajectory; a value of `TERMINALS`.
      next_value: what r_t and C read V(s_{t+1}) through, as `recovered_rewards` takes it.
      t_max: largest slope of phi: ratios rho_pi/rho_E above it are treated as t_max.
    """

    divergence: Divergence
    alpha: ArrayLike
    gamma: ArrayLike
    policy_weight: float = 0.0
    weighting: Weighting = discounted
    terminal: ValueMap = TERMINALS["learned"]
    next_value: ValueMap = pass_gradient
    t_max: float = 100.0

    @property
    def policy_share(self) -> ArrayLike:
        """The share of C taken on the policy's trajectories: w, or 0 where C telescopes to V(s_0).

        Data and policy share the distribution of s_0, so there w has no effect on the expectation of
        J. But it would take part of V(s_0) on other prompts than the batch's, which is noise.
        """
        telescopes = self.weighting.telescopes and self.next_value is pass_gradient
        return 0.0 if telescopes else self.policy_weight

    @property
    def needs_samples(self) -> bool:
        """Whether the policy's trajectories change the objective at all."""
        return self.divergence.psi is not None or self.policy_share > 0

    def phi(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The divergence's phi(x), with slopes up to t_max."""
        return self.divergence.capped_phi(x, self.t_max)


def read_values(
    objective: Objective, values: Values, trajectory: Trajectory
) -> tuple[Values, Float[Array, " T"]]:
    """(Q and V, V(s_N) read through `terminal`; rewards r_t, V(s_{t+1}) read through `next_value`).

    J and the metrics both read values here, so they speak of the same rewards.

    Args:
      objective: gives gamma, terminal and next_value.
      values: Q and V of the network, [T].
      trajectory: of the data or the policy.
    """
    values = set_terminal_value(objective.terminal, values, trajectory)
    rewards = recovered_rewards(values, trajectory, objective.gamma, objective.next_value)
    return values, rewards


def absorbing_reward(transform: ValueMap, objective: Objective, value: Float[Array, ""]) -> Array:
    """B(s_N) of a finished trajectory: what the absorbing state earns over all later time.

    Each step there has the reward V - gamma V = (1-gamma) V(s_N), so with g = phi or psi

        B(s_N) = sum_k gamma^k g(alpha (1-gamma) V(s_N))/alpha
               = g(alpha (1-gamma) V(s_N)) / (alpha (1-gamma)), or g'(0) V(s_N) as gamma -> 1.

    Args:
      transform: g.
      objective: gives alpha and gamma.
      value: V(s_N).
    """
    scale = objective.alpha * (1 - objective.gamma)
    divisor = jnp.where(scale == 0, 1.0, scale)  # no gradient may come from 0/0
    limit = jax.grad(transform)(0.0) * value
    return jnp.where(scale == 0, limit, transform(scale * value) / divisor)


def expert_objective(
    objective: Objective, values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """The expert's part of J: sum_t kappa_t phi(alpha r_t)/alpha + kappa_N B(s_N) - (1-w) C(tau).

    The sum is over the imitated steps. B(s_N) is `absorbing_reward` if `<eos>` ended the trajectory,
    and V(s_N) if it was cut. Where C telescopes all of it is taken here (`Objective.policy_share`).

    Args:
      objective: the choices that define J.
      values: Q and V, [T].
      trajectory: a trajectory of the data.
    """
    (values, reward), alpha = read_values(objective, values, trajectory), objective.alpha
    kappa, last = weights(objective, trajectory), values.v[trajectory.end]
    # Without this bootstrap V(s_N) would only be subtracted, and every cut would favour low values.
    ending = jnp.where(trajectory.finished, absorbing_reward(objective.phi, objective, last), last)
    cost = objective.weighting.cost(objective, values, trajectory)
    return (
        reductions.total(kappa * objective.phi(alpha * reward) / alpha, trajectory.imitate)
        + kappa[trajectory.end] * ending
        - (1 - objective.policy_share) * cost
    )


def policy_objective(
    objective: Objective, values: Values, trajectory: Trajectory
) -> Float[Array, ""]:
    """The policy's part of J: sum_t kappa_t psi(alpha r_t)/alpha + kappa_N B_psi(s_N) - w C(tau).

    The sum is over all decisions. B_psi(s_N) is `absorbing_reward` of psi if `<eos>` ended the
    trajectory, and 0 if it was cut. A divergence without psi leaves only -w C(tau).

    Args:
      objective: the choices that define J.
      values: Q and V, [T].
      trajectory: a trajectory sampled from the policy.
    """
    (values, reward), alpha = read_values(objective, values, trajectory), objective.alpha
    psi = objective.divergence.psi
    # C holds V(s_N) of cut samples too: without it the objective would reward texts that never end.
    cost = objective.policy_share * objective.weighting.cost(objective, values, trajectory)
    if psi is None:
        return -cost
    kappa, last = weights(objective, trajectory), values.v[trajectory.end]
    ending = jnp.where(trajectory.finished, absorbing_reward(psi, objective, last), 0.0)
    penalty = reductions.total(kappa * psi(alpha * reward) / alpha, trajectory.valid)
    return penalty + kappa[trajectory.end] * ending - cost


def sequencematch(
    objective: Objective,
    expert: tuple[Values, Trajectory],
    policy: tuple[Values, Trajectory] | None = None,
) -> Mean:
    """J of a batch per imitated step, to be maximised: (sum_E J_E + (M_E/M_pi) sum_pi J_pi) / n.

    J_E and J_pi are `expert_objective` and `policy_objective`. M_E and M_pi are the numbers of
    trajectories, and n is the number of imitated steps in the whole batch.

    Args:
      objective: the choices that define J.
      expert: values and trajectories of the data, batched.
      policy: values and trajectories sampled from the policy, batched. None if the objective needs no
        samples: then all of C is taken on the expert's trajectories.

    Raises:
      ValueError: policy is None, but the objective needs samples.
    """
    if policy is None and objective.needs_samples:
        raise ValueError("policy=None, but the objective needs samples: w > 0, or D_f has a psi")
    value = jnp.sum(jax.vmap(lambda v, t: expert_objective(objective, v, t))(*expert))
    if policy is not None:
        samples = jax.vmap(lambda v, t: policy_objective(objective, v, t))(*policy)
        value += jnp.sum(samples) * expert[1].end.shape[0] / policy[1].end.shape[0]
    # Divided once for the whole batch: a mean per trajectory would give short texts more weight.
    return Mean(value, reductions.count(expert[1].imitate))
