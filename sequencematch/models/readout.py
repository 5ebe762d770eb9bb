"""From a network and trajectories to what the losses need: a few numbers per step.

Axes: B batch, T slots, D model, V vocabulary. Logits [B, T, V] never exist at once.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sequencematch.core import likelihood, reductions
from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Trajectory, Values
from sequencematch.models.attention import interval_mask
from sequencematch.models.transformer import Transformer


def states(model: Transformer, trajectories: Trajectory) -> Float[Array, "B T D"]:
    """Hidden states that represent s_t at each time t: hidden[state[t]] of one pass, [B, T, D].

    After an edit the text is one that was there before, and so is its representation: it is looked up,
    not computed again (docs/mathematics.md, section 5).
    """
    hidden = model(trajectories.tokens, trajectories.positions, trajectories.visible_until)
    return jnp.take_along_axis(hidden, trajectories.state[..., None], axis=1)


def action_values(
    model: Transformer, mdp: Mdp, hidden: Float[Array, "B T D"], trajectories: Trajectory
) -> Values:
    """Q(s_t, a_t) = l(a_t|s_t) and V(s_t) = logsumexp_a l(a|s_t) of every step.

    Args:
      model: the network; its head is applied here.
      mdp: gives the legal actions.
      hidden: [B, T, D], from `states`.
      trajectories: give the labels a_t.
    """

    def read(hidden: Array, actions: Array) -> Values:
        return reductions.action_values(model.logits(hidden), actions, mdp.legal)

    # In chunks along time, so that the logits of one chunk per row are all that exists at once.
    return jax.vmap(partial(reductions.map_in_chunks, read))(hidden, trajectories.actions)


def log_unlikelihood(
    model: Transformer, mdp: Mdp, hidden: Float[Array, "B T D"], trajectories: Trajectory
) -> Float[Array, "B T"]:
    """sum_c log(1 - pi(c|s_t)) over the distinct legal tokens c of the text s_t but the label, [B, T].

    Args:
      model: the network; its head is applied here.
      mdp: gives the legal actions.
      hidden: [B, T, D], from `states`.
      trajectories: give texts and labels.
    """

    def penalty(hidden: Array, t: Trajectory) -> Array:
        def read(hidden: Array, actions: Array, seen: Array) -> Array:
            logits = model.logits(hidden)
            return likelihood.log_unlikelihood(logits, actions, seen, t.tokens, mdp.legal)

        # The interval mask is the text of each time, but for dead slots, which see themselves.
        pushed = jnp.asarray(mdp.pops)[t.tokens] == 0
        seen = interval_mask(t.visible_until) & pushed
        return reductions.map_in_chunks(read, hidden, t.actions, seen)

    return jax.vmap(penalty)(hidden, trajectories)
