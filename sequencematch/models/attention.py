"""Grouped-query attention, over a trajectory or a cache.

Axes: B batch, T queries in time, S keys (slots), H query heads, K key heads, N width of a head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from sequencematch.core.types import Visibility
from sequencematch.models.config import TransformerConfig
from sequencematch.models.layers import linear, norm, rope_frequencies, rotate

# Queries whose scores exist at once in chunked attention. Small enough that those of a batch are no
# more than its other activations, large enough for fast products of matrices.
CHUNK = 128


class KeyValues(NamedTuple):
    """Keys and values of one layer, [B, S, K, N] each; in a cache, slot s is depth s of the stack."""

    k: Float[Array, "B S K N"]
    v: Float[Array, "B S K N"]


def is_visible(
    slot: Int[Array, "*B T"], visible_until: Int[Array, "*B S"]
) -> Bool[Array, "*B T S"]:
    """mask[i, j]: the i-th query sees key slot j iff j <= slot[i] < visible_until[j].

    One number per key is enough, because a popped token never comes back: what is above the stack's
    top is popped for good (docs/mathematics.md, section 5).

    Args:
      slot, visible_until: as in `Visibility`.
    """
    key = jnp.arange(visible_until.shape[-1])
    return (key <= slot[..., None]) & (slot[..., None] < visible_until[..., None, :])


def attend_plainly(
    q: Float[Array, "B T H N"],
    k: Float[Array, "B S K N"],
    v: Float[Array, "B S K N"],
    visibility: Visibility,
) -> Float[Array, "B T H N"]:
    """softmax(q k^T / sqrt N) v over the visible keys; the mask and all scores exist at once."""
    # All heads have the same mask; jax shares each key among its query heads.
    mask = is_visible(visibility.slot, visibility.visible_until)[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def attend_in_chunks(
    q: Float[Array, "B T H N"],
    k: Float[Array, "B S K N"],
    v: Float[Array, "B S K N"],
    visibility: Visibility,
) -> Float[Array, "B T H N"]:
    """The same for `CHUNK` queries after another: scores of so many exist at once, not of all T.

    The backward pass computes them again, so that memory grows with T and not with T^2.
    """
    T = q.shape[1]
    if T <= CHUNK:
        return attend_plainly(q, k, v, visibility)

    def chunks(x: Array) -> Array:
        padding = [(0, 0), (0, -T % CHUNK)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, padding).reshape(x.shape[0], -1, CHUNK, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def attend(chunk: tuple[Array, Array]) -> Array:
        queries, slot = chunk
        return attend_plainly(queries, k, v, visibility._replace(slot=slot))

    read = jax.lax.map(attend, (chunks(q), chunks(visibility.slot))).swapaxes(0, 1)
    return read.reshape(q.shape[0], -1, *q.shape[2:])[:, :T]


# Name -> (queries, keys, values, visibility) -> what each query reads.
ATTENTION = {"plain": attend_plainly, "chunked": attend_in_chunks}


# Name -> (queries or keys, positions, configuration) -> the same, told of their positions. Learned ones
# are part of the embedding.
POSITIONS = {
    "rotary": lambda x, positions, config: rotate(x, positions, rope_frequencies(config)),
    "learned": lambda x, positions, config: x,
}


class Attention(nnx.Module):
    """Grouped-query self-attention, by a kernel of `ATTENTION`."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        width, N, heads = config.d_model, config.head_dim, config.heads_width
        self.config = config

        def make(inputs: int, outputs: int, bias: bool, name: str) -> nnx.Linear:
            path = f"blocks/attention/{name}"
            return linear(inputs, outputs, config, rngs, bias=bias, path=path)

        self.query = make(width, heads, config.qkv_bias, "query")
        self.key = make(width, config.kv_heads * N, config.qkv_bias, "key")
        self.value = make(width, config.kv_heads * N, config.qkv_bias, "value")
        self.out = make(heads, width, config.out_bias, "out")
        self.query_norm = norm(N, config, rngs) if config.qk_norm else None
        self.key_norm = norm(N, config, rngs) if config.qk_norm else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        visibility: Visibility,
        cache: KeyValues | None = None,
    ) -> tuple[Float[Array, "B T D"], KeyValues]:
        """Attends to x itself, or to a cache after writing x to its slots.

        Args:
          x: [B, T, D], normalised activations.
          visibility: of x, or of x and the cache; fields [B, T] and [B, S].
          cache: keys and values of S slots.

        Returns:
          (output [B, T, D], the keys and values that were attended to).
        """
        (B, T, _), N = x.shape, self.config.head_dim
        tell = POSITIONS[self.config.positions]
        q, k, v = (y(x).reshape(B, T, -1, N) for y in (self.query, self.key, self.value))
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k = (tell(y, visibility.positions, self.config) for y in (q, k))
        if cache is not None:
            # Keys are rotated by depth before they are stored, so a token that is pushed again at the
            # same depth overwrites the popped one. A full row has no slot left: its write is dropped.
            # Row by row, or devices that share the rows would send each other what they write.
            write = jax.vmap(lambda old, slot, new: old.at[slot].set(new, mode="drop"))
            k, v = (write(old, visibility.slot, new) for old, new in ((cache.k, k), (cache.v, v)))
        mixed = ATTENTION[self.config.attention](q, k, v, visibility)
        return self.out(mixed.reshape(B, T, -1)), KeyValues(k, v)
