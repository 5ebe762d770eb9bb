"""What the rest of the package asks of a network.

Axes: B batch, T time, S slots of the cache, D model, V vocabulary.
"""

from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Float, Int

from sequencematch.core.types import Visibility

Cache = TypeVar("Cache")  # any pytree of arrays; only the network that made it looks inside


@runtime_checkable
class Network(Protocol[Cache]):
    """Maps tokens to hidden states, and hidden states to logits; an `nnx.Module`.

    These are two calls, so that a loss can apply the head to a few states at a time, and a sampler to
    a state that it already has. A network knows nothing of edits: which slot sees which, and at what
    depth each token is, are arrays. The hidden state of a slot may depend on what the slot sees, and
    on nothing else.
    """

    def hidden(self, tokens: Int[Array, "B T"], visibility: Visibility) -> Float[Array, "B T D"]:
        """The hidden state of every slot of a batch of trajectories, from one pass."""
        ...

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Logits l(.|s), read as Q-values, of final hidden states; float32."""
        ...

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
        ...

    def decode(
        self, token: Int[Array, " B"], depth: Int[Array, " B"], cache: Cache
    ) -> tuple[Float[Array, "B D"], Cache]:
        """Pushes one token in every row; returns its hidden state and the updated cache.

        Args:
          token: int32[B].
          depth: int32[B], the slot that the token is written to; it sees the slots up to this one.
            Where the cache has no such slot, the write is dropped.
          cache: what is known of the tokens by depth.
        """
        ...
