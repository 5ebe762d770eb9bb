"""A decoder-only transformer: pre-norm, RMSNorm, rotary positions, SwiGLU, grouped-query attention.

It knows nothing of edits: which slot sees which, and at what depth each token is, are arrays.
Axes: B batch, T time, S slots of the cache, D model, V vocabulary.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from sequencematch.models.attention import Attention, KeyValues, interval_mask, stack_mask
from sequencematch.models.config import TransformerConfig
from sequencematch.models.layers import FeedForward, linear

Cache = list[KeyValues]


class Block(nnx.Module):
    """One pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.attention_norm = nnx.RMSNorm(config.d_model, dtype=dtype, rngs=rngs)
        self.attention = Attention(config, rngs)
        self.feed_forward_norm = nnx.RMSNorm(config.d_model, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(config, rngs)

    def __call__(self, x, positions, mask, cache=None) -> tuple[Float[Array, "B T D"], KeyValues]:
        mixed, key_values = self.attention(self.attention_norm(x), positions, mask, cache)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), key_values


class Transformer(nnx.Module):
    """Maps tokens to hidden states, and hidden states to logits.

    These are two calls, so that a loss can apply the head to a few states at a time.
    """

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.embedding = nnx.Embed(config.vocab_size, config.d_model, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.layers)])
        self.norm = nnx.RMSNorm(config.d_model, dtype=dtype, rngs=rngs)
        # Summed in float32 whatever the activations are: a bfloat16 logit of 14 is rounded to steps
        # of .06, which is as large as the loss.
        self.head = linear(config.d_model, config.vocab_size, config, rngs, result="float32")

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        visible_until: Int[Array, "B T"],
    ) -> Float[Array, "B T D"]:
        """The hidden state of every slot of a batch of trajectories, from one pass.

        Args:
          tokens, positions, visible_until: int32[B, T], as in `Trajectory`.
        """
        return self._blocks(tokens, positions, interval_mask(visible_until))[0]

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Logits l(.|s), read as Q-values, of final hidden states; float32."""
        return self.head(hidden)

    def prefill(self, prompt: Int[Array, "B P"], slots: int) -> tuple[Float[Array, "B S D"], Cache]:
        """One causal pass over right-padded prompts.

        Padding also writes to the cache, but above the top of the stack: a push overwrites it before
        anything can see it.

        Args:
          prompt: int32[B, P].
          slots: S >= P, number of slots the cache has room for.

        Returns:
          (hidden states [B, S, D], cache of S slots), zero in the slots P..S-1.
        """
        positions = jnp.broadcast_to(jnp.arange(prompt.shape[1]), prompt.shape)
        mask = stack_mask(positions, prompt.shape[1])
        hidden, cache = self._blocks(prompt, positions, mask)
        # Prompts are right-padded and the mask is causal, so no token of a prompt sees padding.
        room = slots - prompt.shape[1]
        return jax.tree.map(
            lambda x: jnp.pad(x, [(0, 0), (0, room)] + [(0, 0)] * (x.ndim - 2)), (hidden, cache)
        )

    def decode(
        self, token: Int[Array, " B"], depth: Int[Array, " B"], cache: Cache
    ) -> tuple[Float[Array, "B D"], Cache]:
        """Pushes one token in every row; returns its hidden state and the updated cache.

        Args:
          token: int32[B].
          depth: int32[B], the slot that the token is written to.
          cache: keys and values by depth.
        """
        # Rows differ in depth; each sees its own stack up to the token that it pushes.
        mask = stack_mask(depth[:, None], cache[0].k.shape[1])
        hidden, cache = self._blocks(token[:, None], depth[:, None], mask, cache)
        return hidden[:, 0], cache

    def _blocks(self, tokens, positions, mask, cache=None) -> tuple[Array, Cache]:
        x, key_values = self.embedding(tokens), []
        for layer, block in enumerate(self.blocks):
            x, kv = block(x, positions, mask, cache and cache[layer])
            key_values.append(kv)
        return self.norm(x), key_values
