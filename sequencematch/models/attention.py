"""Grouped-query attention, over a trajectory or a cache.

Axes: B batch, T queries in time, S keys (slots), H query heads, K key heads, N width of a head.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from sequencematch.core.types import Visibility
from sequencematch.models.config import TransformerConfig
from sequencematch.models.layers import linear, norm, rope_frequencies, rotate
from sequencematch.models.lora import apply_all

# Queries whose scores exist at once in chunked attention. Small enough that those of a batch are no
# more than its other activations, large enough for fast products of matrices.
CHUNK = 128
SPANS = 4  # more would read fewer keys in vain, but compile longer


class KeyValues(NamedTuple):
    """Keys and values of one layer; in a cache, slot s is depth s of the stack.

    They lie as products of matrices read them: a cache is not laid out anew for every token.
    """

    k: Float[Array, "B K N S"]
    v: Float[Array, "B K S N"]

    @property
    def slots(self) -> int:
        """S."""
        return self.k.shape[3]

    def with_room(self, slots: int) -> "KeyValues":
        """The same, with zeros behind it up to so many slots."""
        none, more = (0, 0), (0, slots - self.slots)
        k = jnp.pad(self.k, [none, none, none, more])
        return KeyValues(k, jnp.pad(self.v, [none, none, more, none]))


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
    k: Float[Array, "B K N S"],
    v: Float[Array, "B K S N"],
    visibility: Visibility,
) -> Float[Array, "B T H N"]:
    """softmax(q k^T / sqrt N) v over the visible keys, by jax; all scores exist at once."""
    # All heads have the same mask; jax shares each key among its query heads.
    mask = is_visible(visibility.slot, visibility.visible_until)[:, None]
    return jax.nn.dot_product_attention(q, k.transpose(0, 3, 1, 2), v.swapaxes(1, 2), mask=mask)


def attend_in_chunks(
    q: Float[Array, "B T H N"],
    k: Float[Array, "B K N S"],
    v: Float[Array, "B K S N"],
    visibility: Visibility,
) -> Float[Array, "B T H N"]:
    """The same for `CHUNK` queries after another: scores of so many exist at once, not of all T.

    The backward pass computes them again, so that memory grows with T and not with T^2. In a pass over
    a trajectory, where there are as many queries as keys, no query sees a key after its own slot: each
    of `SPANS` spans reads those up to its end.
    """
    T, S = q.shape[1], k.shape[3]
    span, read = CHUNK * -(-T // (CHUNK * SPANS)), []
    for begin in range(0, T, span):
        end = min(begin + span, T)
        seen = end if S == T else S
        attend = jax.checkpoint(partial(_attend_chunk, seen, k, v, visibility.visible_until))
        queries, slot = q[:, begin:end], visibility.slot[:, begin:end]
        if end - begin <= CHUNK:
            read.append(attend(queries, slot))
        else:
            chunks = jax.tree.map(_divide, (queries, slot))
            chunks = jax.lax.map(lambda chunk, attend=attend: attend(*chunk), chunks)
            chunks = chunks.swapaxes(0, 1).reshape(q.shape[0], -1, *q.shape[2:])
            read.append(chunks[:, : end - begin])
    return jnp.concatenate(read, axis=1)


def _divide(x: Array) -> Array:
    """Chunks of x, [chunks, B, CHUNK, ...]; the last is filled up."""
    padding = [(0, 0), (0, -x.shape[1] % CHUNK)] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, padding).reshape(x.shape[0], -1, CHUNK, *x.shape[2:]).swapaxes(0, 1)


def _attend_chunk(
    seen: int,
    k: Float[Array, "B K N S"],
    v: Float[Array, "B K S N"],
    visible_until: Int[Array, "B S"],
    q: Float[Array, "B T H N"],
    slot: Int[Array, "B T"],
) -> Float[Array, "B T H N"]:
    """What queries read of the first `seen` keys; see `is_visible` for the rest."""
    (B, T, H, N), K = q.shape, k.shape[1]
    # One product of matrices for each row and key head: its query heads come one after another.
    queries = q.reshape(B, T, K, H // K, N).transpose(0, 2, 3, 1, 4)
    keys, values = k[..., :seen], v[:, :, :seen]
    dot = partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = dot("bktn,bkns->bkts", queries.reshape(B, K, -1, N), keys)
    mask = jnp.tile(is_visible(slot, visible_until[:, :seen]), (1, H // K, 1))[:, None]
    scores = jnp.where(mask, scores * N**-0.5, -1e30)
    # Not divided by their sum before the values are read: that is done to fewer numbers after it.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    read = dot("bkts,bksn->bktn", weights.astype(v.dtype), values) / total
    read = read.astype(v.dtype).reshape(B, K, H // K, T, N)
    return read.transpose(0, 3, 1, 2, 4).reshape(B, T, H, N)


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
        self.key = make(width, config.keys_width, config.qkv_bias, "key")
        self.value = make(width, config.keys_width, config.qkv_bias, "value")
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
        q, k, v = (y.reshape(B, T, -1, N) for y in apply_all([self.query, self.key, self.value], x))
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k = (tell(y, visibility.positions, self.config) for y in (q, k))
        k, v = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)
        if cache is not None:
            # Keys are rotated by depth before they are stored, so a token that is pushed again at the
            # same depth overwrites the popped one. A full row has no slot left: its write is dropped.
            # Row by row, or devices that share the rows would send each other what they write.
            write_k = jax.vmap(lambda old, slot, new: old.at[:, :, slot].set(new, mode="drop"))
            write_v = jax.vmap(lambda old, slot, new: old.at[:, slot].set(new, mode="drop"))
            k, v = write_k(cache.k, visibility.slot, k), write_v(cache.v, visibility.slot, v)
        mixed = ATTENTION[self.config.attention](q, k, v, visibility)
        return self.out(mixed.reshape(B, T, -1)), KeyValues(k, v)
