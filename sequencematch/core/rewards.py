"""Rewards that the logits imply, their return, and temporal differences of V."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sequencematch.core.types import Trajectory, Values

ValueMap = Callable[[Array], Array]

# V(s_N): SequenceMatch learns it at the slot that holds `<eos>`; in IQ-Learn and IRL it is 0.
TERMINALS: dict[str, ValueMap] = {"learned": lambda v: v, "zero": jnp.zeros_like}


def pass_gradient(v: Array) -> Array:
    """The gradient of r_t flows through V(s_{t+1}) too: there is no target network."""
    return v


def stop_gradient(v: Array) -> Array:
    """V(s_{t+1}) as a constant, an ablation."""
    return jax.lax.stop_gradient(v)


def bound_value(alpha: float, gamma: float, inner: ValueMap = pass_gradient) -> ValueMap:
    """V(s_{t+1}) within +-4/(alpha (1-gamma)), what rewards of a chi2 mixture can sum to (LS-IQ)."""
    bound = 4 / (alpha * (1 - gamma))
    return lambda v: jnp.clip(inner(v), -bound, bound)


NEXT_VALUES: dict[str, ValueMap] = {"flowing": pass_gradient, "stopped": stop_gradient}


def set_terminal_value(terminal: ValueMap, values: Values, trajectory: Trajectory) -> Values:
    """The values with V(s_N) of a finished trajectory read through `terminal`, one of `TERMINALS`."""
    last = trajectory.finished & (jnp.arange(values.v.shape[0]) == trajectory.end)
    return values._replace(v=jnp.where(last, terminal(values.v), values.v))


def recovered_rewards(
    values: Values, trajectory: Trajectory, gamma: float, next_value: ValueMap = pass_gradient
) -> Float[Array, " T"]:
    """The implied reward r_t = l(a_t|s_t) - gamma V(s_{t+1}) at each decision; 0 elsewhere.

    IQ-Learn's inverse soft Bellman operator: the reward under which these Q-values are optimal.

    Args:
      values: Q and V of the trajectory.
      trajectory: the decisions; the reward is that of `actions`, its labels.
      gamma: discount in (0, 1).
      next_value: what V(s_{t+1}) is read through.
    """
    following = gamma * next_value(jnp.roll(values.v, -1))
    return jnp.where(trajectory.valid, values.q - following, 0.0)


def recovered_return(values: Values, trajectory: Trajectory, gamma: float) -> Float[Array, ""]:
    """sum_t gamma^t r_t of a trajectory, what its absorbing state earns for ever included.

    That is (1-gamma) V(s_N) at each step from N on, gamma^N V(s_N) in all; a cut trajectory is
    credited the same for the part that is not seen.
    """
    kappa = gamma ** jnp.maximum(jnp.arange(values.v.shape[0]) - trajectory.start, 0)
    earned = jnp.sum(kappa * recovered_rewards(values, trajectory, gamma))
    return earned + kappa[trajectory.end] * values.v[trajectory.end]


def temporal_differences(
    values: Values, trajectory: Trajectory, gamma: float
) -> Float[Array, " T"]:
    """V(s_t) - gamma V(s_{t+1}) at each decision; 0 elsewhere."""
    return jnp.where(trajectory.valid, values.v - gamma * jnp.roll(values.v, -1), 0.0)
