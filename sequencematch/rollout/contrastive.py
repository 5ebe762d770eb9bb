"""Contrastive search (Su et al. 2022): likely tokens that do not resemble what is written already."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sequencematch.models.network import Network


def contrastive_scores(
    model: Network,
    tokens: Float[Array, "B V"],
    hidden: Float[Array, "B S D"],
    depth: Int[Array, " B"],
    cache: Any,
    *,
    candidates: int,
    weight: float,
) -> Float[Array, "B V"]:
    """(1-α) π(v|s) - α max_j cos(h_v, h_j) of the likeliest tokens v, -inf of all others.

    h_j are the hidden states of the tokens of prompt and text, h_v that of v if it were pushed. π is
    among the tokens that may be written: the probability of edits is no part of it.

    Args:
      model: the policy.
      tokens: float32[B, V], logits of the tokens that may be written, -inf elsewhere.
      hidden: [B, S, D], hidden states by depth.
      depth: int32[B], of the text's last token.
      cache: what the network keeps of each depth.
      candidates: how many of the likeliest tokens are compared.
      weight: α in [0, 1].
    """
    B, S, _ = hidden.shape
    likely, ids = jax.lax.top_k(jax.nn.softmax(tokens), min(candidates, tokens.shape[1]))
    written, is_written = _unit(hidden), jnp.arange(S) <= depth[:, None]

    def resemblance(token: Int[Array, " B"]) -> Float[Array, " B"]:
        pushed, _ = model.decode(token, depth + 1, cache)
        cosines = jnp.einsum("bsd,bd->bs", written, _unit(pushed))
        return jnp.max(jnp.where(is_written, cosines, -jnp.inf), axis=1)

    # One candidate after another: each needs a cache of its own while it is read.
    cosines = jax.lax.map(resemblance, ids.T.astype(jnp.int32)).T
    # A token that may not be written has no probability, and is no candidate.
    scores = jnp.where(likely > 0, (1 - weight) * likely - weight * cosines, -jnp.inf)
    return jnp.full(tokens.shape, -jnp.inf).at[jnp.arange(B)[:, None], ids].set(scores)


def _unit(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Vectors of length 1 with the same directions."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), jnp.finfo(x.dtype).tiny)
