"""What the losses read from the network: a few numbers a step, from one pass and a gather.

Axes: B batch, T slots, D model. Logits [B, T, V] never exist at once.
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
    """Hidden state that represents s_t, at each time t."""
    hidden = model(trajectories.tokens, trajectories.positions, trajectories.visible_until)
    return jnp.take_along_axis(hidden, trajectories.state[..., None], axis=1)


def action_values(
    model: Transformer, mdp: Mdp, hidden: Float[Array, "B T D"], trajectories: Trajectory
) -> Values:
    """Q(s_t, a_t) and V(s_t) of every step, from the hidden states of `states`."""

    def read(hidden: Array, actions: Array) -> Values:
        return reductions.action_values(model.logits(hidden), actions, mdp.legal)

    return jax.vmap(partial(reductions.map_in_chunks, read))(hidden, trajectories.actions)


def log_unlikelihood(
    model: Transformer, mdp: Mdp, hidden: Float[Array, "B T D"], trajectories: Trajectory
) -> Float[Array, "B T"]:
    """sum_c log(1 - pi(c|s_t)) over the tokens of the text s_t, the label excepted."""

    def one(hidden: Array, t: Trajectory) -> Array:
        def read(hidden: Array, actions: Array, seen: Array) -> Array:
            logits = model.logits(hidden)
            return likelihood.log_unlikelihood(logits, actions, seen, t.tokens, mdp.legal)

        pushed = jnp.asarray(mdp.pops)[t.tokens] == 0
        seen = interval_mask(t.visible_until) & pushed
        return reductions.map_in_chunks(read, hidden, t.actions, seen)

    return jax.vmap(one)(hidden, trajectories)
