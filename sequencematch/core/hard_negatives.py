"""Hard negatives: wrong tokens drawn from the current policy (`noise.kind="policy"`)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Trajectory


def wrong_steps(mdp: Mdp, trajectory: Trajectory) -> Bool[Array, " T"]:
    """The times at which the environment pushed another token than the expert's label."""
    executed = jnp.roll(trajectory.tokens, -1)
    return trajectory.valid & jnp.asarray(mdp.ordinary)[executed] & (executed != trajectory.actions)


def draw_wrong_token(
    mdp: Mdp, logits: Float[Array, " V"], right: Int[Array, ""], key: PRNGKeyArray
) -> Int[Array, ""]:
    """Draws a wrong token from the policy: z ~ pi(.|s), z an ordinary token other than `right`."""
    allowed = jnp.asarray(mdp.ordinary) & (jnp.arange(logits.shape[0]) != right)
    return jax.random.categorical(key, jnp.where(allowed, logits, -jnp.inf))


def replace_wrong_tokens(mdp: Mdp, trajectory: Trajectory, z: Int[Array, " T"]) -> Trajectory:
    """The trajectory with the token pushed at each wrong step t replaced by z[t].

    The stack, the mask and the states do not depend on which wrong token was pushed. So an episode
    ships placeholders, one gradient-free pass over it gives l(.|s_t) at its wrong steps (before a
    wrong token s_t holds clean text only), `wrong_token` draws, and nothing but the tokens changes.
    """
    executed = jnp.where(wrong_steps(mdp, trajectory), z, jnp.roll(trajectory.tokens, -1))
    tokens = jnp.roll(executed, 1).astype(trajectory.tokens.dtype)
    return trajectory._replace(tokens=tokens)
