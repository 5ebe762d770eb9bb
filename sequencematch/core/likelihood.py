"""Maximum likelihood, behavioural cloning and unlikelihood."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sequencematch.core import reductions
from sequencematch.core.mdp import Mdp
from sequencematch.core.reductions import Mean, legal_logits
from sequencematch.core.types import Trajectory, Values


def log_likelihood(values: Values, trajectory: Trajectory) -> Float[Array, ""]:
    """Sum over the imitated steps of log pi(a_t|s_t) = l(a_t|s_t) - V(s_t), in nats."""
    return reductions.total(values.q - values.v, trajectory.imitate)


def behavioural_cloning(values: Values, trajectories: Trajectory) -> Mean:
    """Mean of -log pi(a_t|s_t) over the imitated steps of a batch, in nats per step.

    On clean data and an action set without edits, this is maximum likelihood.

    Args:
      values: Q and V, [B, T].
      trajectories: the batch.
    """
    likelihoods = jax.vmap(log_likelihood)(values, trajectories)
    return Mean(-jnp.sum(likelihoods), reductions.count(trajectories.imitate))


def unlikelihood(values: Values, unlikely: Float[Array, "B T"], trajectories: Trajectory) -> Mean:
    """Behavioural cloning plus token-level unlikelihood (Welleck et al. 2020), in nats per step.

    -1/n sum_t [log pi(a_t|s_t) + sum_c log(1 - pi(c|s_t))] over the n imitated steps of a batch.

    Args:
      values: Q and V, [B, T].
      unlikely: float32[B, T], sum_c log(1 - pi(c|s_t)) as `log_unlikelihood` computes it.
      trajectories: the batch.
    """
    cloning = behavioural_cloning(values, trajectories)
    return cloning._replace(total=cloning.total - reductions.total(unlikely, trajectories.imitate))


def first_occurrences(mdp: Mdp, trajectory: Trajectory) -> Bool[Array, " T"]:
    """Slots whose token was not in the text yet when it was pushed; false on dead slots.

    What is in the text when a token is pushed stays below it, so it is there as long as the token is.
    Hence the text at any time has each of its tokens in just one of these slots.
    """
    slot, t = jnp.arange(trajectory.tokens.shape[0]), trajectory
    pushed = jnp.asarray(mdp.pops)[t.tokens] == 0
    # [later, earlier]
    below = (slot < slot[:, None]) & (slot[:, None] < t.visible_until) & pushed
    return pushed & ~jnp.any(below & (t.tokens == t.tokens[:, None]), axis=1)


def log_unlikelihood(
    logits: Float[Array, "T V"],
    actions: Int[Array, " T"],
    candidates: Bool[Array, "T S"],
    tokens: Int[Array, " S"],
    legal: Bool[Array | np.ndarray, " V"],
) -> Float[Array, " T"]:
    """sum_c log(1 - pi(c|s_t)) over the legal candidates c but the label.

    The negative candidates of Welleck et al. 2020 are the distinct tokens that the text already holds.

    Args:
      logits: any float dtype [T, V], at the states s_t.
      actions: int32[T], the labels.
      candidates: bool[T, S], the slots whose tokens are candidates at each time; no token twice, as in
        `first_occurrences` that are visible.
      tokens: int32[S], the token of each slot.
      legal: bool[V], the action set; other ids are no candidates.
    """
    logits = legal_logits(logits, legal)
    v, likeliest = jax.nn.logsumexp(logits, axis=-1), jnp.argmax(logits, axis=-1)
    # 1 - p of the likeliest is the sum of the others' p: its own, near 1, would lose it.
    is_likeliest = jnp.arange(logits.shape[-1]) == likeliest[:, None]
    rest = jax.nn.logsumexp(logits, axis=-1, where=~is_likeliest) - v
    # Looked up by id, since all others have p <= 1/2.
    log_pi = logits[:, tokens] - v[:, None]
    counts = candidates & jnp.asarray(legal)[tokens] & (tokens != actions[:, None])
    others = counts & (tokens != likeliest[:, None])
    found = jnp.where(others, jnp.log1p(-jnp.exp(jnp.where(others, log_pi, -1.0))), rest[:, None])
    return jnp.sum(jnp.where(counts, found, 0.0), axis=-1)
