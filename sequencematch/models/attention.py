"""Attention under an interval mask, with rotary positions and grouped queries, cached or not.

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
    """Keys and values of one layer, [B, S, K, N] each."""

    k: Float[Array, "B S K N"]
    v: Float[Array, "B S K N"]


def interval_mask(visible_until: Int[Array, "*B T"]) -> Bool[Array, "*B T T"]:
    """Query slot i sees key slot j iff j <= i < visible_until[j]."""
    slot = jnp.arange(visible_until.shape[-1])
    return (slot <= slot[:, None]) & (slot[:, None] < visible_until[..., None, :])


def stack_mask(positions: Int[Array, "B T"], slots: int) -> Bool[Array, "B T S"]:
    """A query at depth d sees the slots 0..d of the stack."""
    return jnp.arange(slots) <= positions[..., None]


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions."""

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
        """Attends to x itself, or to a cache in which x is first written at slot = position.

        Returns the output and the keys and values attended to.
        """
        B, T, _ = x.shape
        N, base = self.config.head_dim, self.config.rope_base
        q = rotate(self.query(x).reshape(B, T, -1, N), positions, base)
        k = rotate(self.key(x).reshape(B, T, -1, N), positions, base)
        v = self.value(x).reshape(B, T, -1, N)
        if cache is not None:
            row = jnp.arange(B)[:, None]
            k = cache.k.at[row, positions].set(k, mode="drop")
            v = cache.v.at[row, positions].set(v, mode="drop")
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
        return self.out(mixed.reshape(B, T, -1)), KeyValues(k, v)
