"""The rewards that the logits imply, their return, and temporal differences of V."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from sequencematch.core.types import Trajectory, Values

ValueMap = Callable[[Array], Array]

# V(s_N) of a finished trajectory. SequenceMatch learns it at the slot that holds `<eos>`; in IQ-Learn
# and in inverse RL (arXiv 2409.01369) it is 0.
TERMINALS: dict[str, ValueMap] = {"learned": lambda v: v, "zero": jnp.zeros_like}


def pass_gradient(v: Array) -> Array:
    """V(s_{t+1}) as it is: the gradient of r_t flows through it too, as there is no target network."""
    return v


def stop_gradient(v: Array) -> Array:
    """V(s_{t+1}) as a constant, for ablations."""
    return jax.lax.stop_gradient(v)


def bound_value(alpha: ArrayLike, gamma: ArrayLike, inner: ValueMap = pass_gradient) -> ValueMap:
    """V(s_{t+1}) clipped to +-4/(alpha (1-gamma)) (LS-IQ).

    At the optimum of a chi2 mixture rewards are within 4/alpha. V holds entropy, too; that may be cut.

    Args:
      alpha: scale of the reward.
      gamma: discount in (0, 1).
      inner: applied before clipping.
    """
    bound = 4 / (alpha * (1 - gamma))
    return lambda v: jnp.clip(inner(v), -bound, bound)


NEXT_VALUES: dict[str, ValueMap] = {"flowing": pass_gradient, "stopped": stop_gradient}


def set_terminal_value(terminal: ValueMap, values: Values, trajectory: Trajectory) -> Values:
    """Replaces V(s_N) of a finished trajectory by terminal(V(s_N)); cut trajectories keep theirs."""
    last = trajectory.finished & (jnp.arange(values.v.shape[0]) == trajectory.end)
    return values._replace(v=jnp.where(last, terminal(values.v), values.v))


def recovered_rewards(
    values: Values, trajectory: Trajectory, gamma: ArrayLike, next_value: ValueMap = pass_gradient
) -> Float[Array, " T"]:
    """The implied reward r_t = l(a_t|s_t) - gamma V(s_{t+1}) of each decision; 0 elsewhere.

    This is IQ-Learn's inverse soft Bellman operator: under these rewards, Q is optimal.

    Args:
      values: Q and V, [T].
      trajectory: the decisions; a_t is the label, s_{t+1} the state that followed.
      gamma: discount in (0, 1].
      next_value: what V(s_{t+1}) is read through, a value of `NEXT_VALUES` or `bound_value` of one.
    """
    following = gamma * next_value(jnp.roll(values.v, -1))
    return jnp.where(trajectory.valid, values.q - following, 0.0)


def recovered_return(values: Values, trajectory: Trajectory, gamma: ArrayLike) -> Float[Array, ""]:
    """The return sum_t gamma^t r_t + gamma^N V(s_N) of the implied rewards, t = 0..N-1.

    The last term is the return from s_N on, at gamma < 1: (1-gamma) V(s_N) at each absorbing step.
    A cut trajectory gets the same term for the part that was cut off.

    Args:
      values: Q and V, [T].
      trajectory: the decisions.
      gamma: discount in (0, 1].
    """
    kappa = gamma ** jnp.maximum(jnp.arange(values.v.shape[0]) - trajectory.start, 0)
    earned = jnp.sum(kappa * recovered_rewards(values, trajectory, gamma))
    return earned + kappa[trajectory.end] * values.v[trajectory.end]


def temporal_differences(
    values: Values, trajectory: Trajectory, gamma: ArrayLike, next_value: ValueMap = pass_gradient
) -> Float[Array, " T"]:
    """V(s_t) - gamma V(s_{t+1}) at each decision, arguments as of `recovered_rewards`; 0 elsewhere."""
    return recovered_rewards(values._replace(q=values.v), trajectory, gamma, next_value)
