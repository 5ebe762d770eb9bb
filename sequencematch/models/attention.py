"""Grouped-query attention with rotary positions, under any mask, with or without a cache.

Axes: B batch, T queries in time, S keys (slots), H query heads, K key heads, N width of a head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from sequencematch.models.config import TransformerConfig
from sequencematch.models.layers import linear, rotate


class KeyValues(NamedTuple):
    """Keys and values of one layer, [B, S, K, N] each; in a cache, slot s is depth s of the stack."""

    k: Float[Array, "B S K N"]
    v: Float[Array, "B S K N"]


def interval_mask(visible_until: Int[Array, "*B T"]) -> Bool[Array, "*B T T"]:
    """mask[i, j]: query slot i sees key slot j iff j <= i < visible_until[j].

    One number per key is enough, because a popped token never comes back: what is above the stack's
    top is popped for good (docs/mathematics.md, section 5).

    Args:
      visible_until: int32[..., T], first query slot after j from which j is hidden; T if none is.
    """
    slot = jnp.arange(visible_until.shape[-1])
    return (slot <= slot[:, None]) & (slot[:, None] < visible_until[..., None, :])


def stack_mask(positions: Int[Array, "B T"], slots: int) -> Bool[Array, "B T S"]:
    """mask[t, s]: a query at depth d sees the slots 0..d of the stack.

    Args:
      positions: int32[B, T], depths of the queries.
      slots: S, number of keys.
    """
    return jnp.arange(slots) <= positions[..., None]


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions: softmax(q k^T / sqrt N) v under a mask."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        width, N = config.d_model, config.head_dim
        self.config = config
        self.query = linear(width, config.heads * N, config, rngs)
        self.key = linear(width, config.kv_heads * N, config, rngs)
        self.value = linear(width, config.kv_heads * N, config, rngs)
        self.out = linear(config.heads * N, width, config, rngs)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"],
        cache: KeyValues | None = None,
    ) -> tuple[Float[Array, "B T D"], KeyValues]:
        """Attends to x itself, or to a cache after writing x to it at slot = position.

        Args:
          x: [B, T, D], normalised activations.
          positions: int32[B, T], depth of each token in its text.
          mask: bool[B, T, S], which keys each query sees; S = T without a cache.
          cache: keys and values of S slots.

        Returns:
          (output [B, T, D], the keys and values that were attended to).
        """
        B, T, _ = x.shape
        N, base = self.config.head_dim, self.config.rope_base
        q = rotate(self.query(x).reshape(B, T, -1, N), positions, base)
        k = rotate(self.key(x).reshape(B, T, -1, N), positions, base)
        v = self.value(x).reshape(B, T, -1, N)
        if cache is not None:
            # Keys are rotated by depth before they are stored, so a token that is pushed again at the
            # same depth overwrites the popped one. A full row has no slot left: its write is dropped.
            row = jnp.arange(B)[:, None]
            k = cache.k.at[row, positions].set(k, mode="drop")
            v = cache.v.at[row, positions].set(v, mode="drop")
        # All heads have the same mask; jax shares each key among its query heads.
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
        return self.out(mixed.reshape(B, T, -1)), KeyValues(k, v)
