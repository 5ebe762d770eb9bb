"""Maximum likelihood, behavioural cloning and unlikelihood."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sequencematch.core import reductions
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


def log_unlikelihood(
    logits: Float[Array, "T V"],
    actions: Int[Array, " T"],
    seen: Bool[Array, "T S"],
    tokens: Int[Array, " S"],
    legal: Bool[Array | np.ndarray, " V"],
) -> Float[Array, " T"]:
    """sum_c log(1 - pi(c|s_t)) over the distinct legal tokens c of the text s_t but the label.

    The negative candidates of Welleck et al. 2020: what the text already holds.

    Args:
      logits: any float dtype [T, V], at the states s_t.
      actions: int32[T], the labels.
      seen: bool[T, S], the slots whose tokens make up the text at each time.
      tokens: int32[S], the token of each slot.
      legal: bool[V], the action set; other ids are no candidates.
    """
    V = logits.shape[-1]
    # A product with one-hot rows counts how often each token occurs in each text.
    text = seen.astype(jnp.float32) @ jax.nn.one_hot(tokens, V) > 0
    candidates = text & jnp.asarray(legal) & (jnp.arange(V) != actions[:, None])
    log_pi = jax.nn.log_softmax(legal_logits(logits, legal))
    # log(1 - p) from log p, bounded away from p = 1, where it and its gradient are infinite.
    log_pi = jnp.where(candidates, jnp.minimum(log_pi, -1e-6), -1.0)
    return jnp.sum(jnp.where(candidates, jnp.log(-jnp.expm1(log_pi)), 0.0), axis=-1)
