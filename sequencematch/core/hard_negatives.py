"""Hard negatives: wrong tokens drawn from the current policy (`noise.kind="policy"`).

Which wrong token is pushed changes neither the stack, nor the mask, nor the states. So an episode
first carries placeholders. One gradient-free pass gives l(.|s_t) at its wrong steps, where s_t holds
clean text only. A token is then drawn for each of them by `wrong_logits`, and `replace_wrong_tokens`
puts it into the trajectory. docs/mathematics.md, section 6, says why `noise.run` must be 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Trajectory


def wrong_steps(mdp: Mdp, trajectory: Trajectory) -> Bool[Array, " T"]:
    """The times at which an ordinary token other than the label was pushed."""
    # The action executed at time t is the token of slot t+1.
    executed = jnp.roll(trajectory.tokens, -1)
    return trajectory.valid & jnp.asarray(mdp.ordinary)[executed] & (executed != trajectory.actions)


def wrong_logits(mdp: Mdp, logits: Float[Array, " V"], right: Int[Array, ""]) -> Float[Array, " V"]:
    """Logits of z ~ pi(.|s), restricted to the ordinary tokens other than the right action.

    Args:
      mdp: the decision process.
      logits: float32[V], l(.|s).
      right: int32, id of the right action.
    """
    allowed = jnp.asarray(mdp.ordinary) & (jnp.arange(logits.shape[0]) != right)
    return jnp.where(allowed, logits, -jnp.inf)


def replace_wrong_tokens(mdp: Mdp, trajectory: Trajectory, z: Int[Array, " T"]) -> Trajectory:
    """Replaces the token pushed at each wrong step t by z[t]; no other field changes.

    Args:
      mdp: the decision process.
      trajectory: a trajectory with placeholders at its wrong steps.
      z: int32[T], ordinary tokens; only those at wrong steps are used.
    """
    executed = jnp.where(wrong_steps(mdp, trajectory), z, jnp.roll(trajectory.tokens, -1))
    tokens = jnp.roll(executed, 1).astype(trajectory.tokens.dtype)
    return trajectory._replace(tokens=tokens)
