"""A decoder-only transformer; its configuration makes it a GPT-2, a Llama, a Qwen or a Gemma.

Axes: B batch, T time, S slots of the cache, L layers, D model, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import qwix
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from sequencematch.core.types import Visibility
from sequencematch.models.attention import Attention, KeyValues
from sequencematch.models.config import TransformerConfig
from sequencematch.models.gathering import append, divide_rows, put_together
from sequencematch.models.layers import FeedForward, flat_dot_general, linear, norm, table
from sequencematch.models.lora import PRODUCT
from sequencematch.models.network import Network

# The most layers that one iteration of the loop over them runs. More is faster on CPUs, but compiles
# longer: up to this many layers there is no loop at all. Of kernels in 4 bits only one layer's are to
# exist in floats.
UNROLL = {"float": 4, "bfloat16": 4, "nf4": 1}

# Name -> what becomes of a layer: whether all of its activations are stored for the backward pass
# ("none"); only its input and its products with weights ("products"); or only its input ("full"). The
# rest is computed again: with "products" that is little, and saves reading and writing.
REMAT: dict[str, Callable[[Callable], Callable]] = {
    "none": lambda layer: layer,
    "products": partial(
        jax.checkpoint,
        policy=jax.checkpoint_policies.save_only_these_names(PRODUCT),
        prevent_cse=False,
    ),
    "full": jax.checkpoint,
}


def remat_on(remat: str, fsdp: int) -> str:
    """What becomes of a layer whose parameters `fsdp` devices share: "none" is "products" there.

    Else each would keep all layers' parameters whole for the backward pass. A checkpoint around the
    layer that leaves out these alone would undo those within it: of chunks, and of kernels in 4 bits.
    """
    return "products" if remat == "none" and fsdp > 1 else remat


Cache = list[KeyValues]
T = TypeVar("T")  # a tree of parameters


class Block(nnx.Module):
    """One pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.attention_norm = norm(config.d_model, config, rngs)
        self.attention = Attention(config, rngs)
        self.feed_forward_norm = norm(config.d_model, config, rngs)
        self.feed_forward = FeedForward(config, rngs)

    def __call__(self, x, visibility, cache=None) -> tuple[Float[Array, "B T D"], KeyValues]:
        mixed, key_values = self.attention(self.attention_norm(x), visibility, cache)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), key_values


def draw_blocks(config: TransformerConfig, rngs: nnx.Rngs) -> Block:
    """A block whose parameters are those of all blocks, [L, ...], drawn one after another.

    In a loop, so that the program that draws them is compiled for one block.
    """
    graph, streams = nnx.split(rngs)

    def draw(streams: nnx.State, _: None) -> tuple[nnx.State, nnx.State]:
        rngs = nnx.merge(graph, streams)
        params = nnx.state(Block(config, rngs))
        return nnx.state(rngs), params

    streams, params = jax.lax.scan(draw, streams, length=config.layers)
    nnx.update(rngs, streams)
    one = nnx.eval_shape(lambda: Block(config, nnx.Rngs(0)))
    return nnx.merge(nnx.graphdef(one), params)


def unrolled_layers(config: TransformerConfig) -> int:
    """Layers that one iteration of the loop runs: they divide L, or XLA would copy all parameters.

    It would cut off the layers that are left over, and join their gradients to those of the others.
    """
    return max(n for n in range(1, UNROLL[config.lora.base] + 1) if config.layers % n == 0)


def is_in_4_bits(_: tuple, param: nnx.Variable) -> bool:
    """Whether a parameter is a matrix in 4 bits."""
    return isinstance(param.get_value(), qwix.QArray)


def check_length(slots: int, config: TransformerConfig) -> None:
    """Raises ValueError if learned positions do not reach as far as a text of so many slots."""
    if config.positions == "learned" and slots > config.context:
        raise ValueError(f"{slots} slots are more than the {config.context} positions of the model")


class Transformer(nnx.Module):
    """The network of this package; a `Network` whose cache is one `KeyValues` a layer.

    With a mesh, a layer first puts its parameters together from all devices (`gathering`). For what
    stands before and after the layers, `with_whole_ends` does so.

    Edits have logits of their own, apart from the vocabulary's, and no embedding: a slot that an edit
    makes is seen by no other. So another edit changes no parameter and no logit that is there already.
    """

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs, mesh: Mesh | None = None):
        # Those that have rows of their own: along `model` devices may have whole logits.
        self.devices = mesh.shape["data"] * mesh.shape["fsdp"] if mesh else 1
        self.config = config
        # A mesh that divides rows alone leaves the network as it is.
        divides = mesh is not None and mesh.shape["fsdp"] * mesh.shape["model"] > 1
        self.mesh = mesh if divides else None
        self.embedding = table(config.embedding_rows, config, rngs)
        self.positions = table(config.position_rows, config, rngs) if config.position_rows else None
        self.blocks = draw_blocks(config, rngs)
        self.norm = norm(config.d_model, config, rngs)
        # Summed in float32 whatever the activations are: a bfloat16 logit of 14 is rounded to steps
        # of .06, which is as large as the loss.
        D, rows = config.d_model, config.embedding_rows
        self.head = None if config.tied else linear(D, rows, config, rngs, "float32")
        # Last, so that what is drawn for the others does not depend on it.
        self.edits = linear(D, config.edits, config, rngs, "float32") if config.edits else None

    def hidden(self, tokens: Int[Array, "B T"], visibility: Visibility) -> Float[Array, "B T D"]:
        """The hidden state of every slot; see `Network`."""
        graph, in_4_bits, params = nnx.split(self.blocks, is_in_4_bits, ...)

        def layer(x: Array, inputs: tuple[Array, nnx.State]) -> tuple[Array, None]:
            i, params = inputs
            # Looked up here: what a loop is given for each layer, its backward pass keeps a copy of.
            own = jax.tree.map(lambda stacked: stacked[i], in_4_bits)
            own, params = self._together((own, params))
            return self._divide(nnx.merge(graph, own, params)(x, visibility)[0]), None

        fsdp = self.mesh.shape["fsdp"] if self.mesh else 1
        layer = REMAT[remat_on(self.config.remat, fsdp)](layer)
        # Of layers that are put together, one at a time.
        unroll = 1 if fsdp > 1 else unrolled_layers(self.config)
        x, layers = self._embed(tokens, visibility), jnp.arange(self.config.layers)
        x, _ = jax.lax.scan(layer, x, (layers, params), unroll=unroll)
        return self.norm(x)

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Logits of final hidden states; see `Network`."""
        logits = self._tied_logits(hidden) if self.head is None else self.head(hidden)
        if self.edits is None:
            return logits
        edits = self.edits(hidden)
        if self.mesh is None:
            return jnp.concatenate([logits, edits], axis=-1)
        return append(logits, edits)

    def prefill(self, prompt: Int[Array, "B P"], slots: int) -> tuple[Float[Array, "B S D"], Cache]:
        """One causal pass over right-padded prompts; see `Network`."""
        B, P = prompt.shape
        check_length(slots, self.config)
        # Prompts are right-padded and the mask is causal, so no token of a prompt sees padding.
        positions = jnp.broadcast_to(jnp.arange(P), prompt.shape)
        visibility = Visibility(positions, positions, jnp.full((B, P), P))
        empty = [None] * self.config.layers
        hidden, cache = self._blocks_with_cache(prompt, visibility, empty)
        hidden = jnp.pad(hidden, [(0, 0), (0, slots - P), (0, 0)])
        return hidden, [key_values.with_room(slots) for key_values in cache]

    def decode(
        self, token: Int[Array, " B"], depth: Int[Array, " B"], cache: Cache
    ) -> tuple[Float[Array, "B D"], Cache]:
        """Pushes one token in every row; see `Network`."""
        # Rows differ in depth; each sees its own stack up to the token that it pushes.
        S = cache[0].slots
        slot = depth[:, None]
        visibility = Visibility(slot, slot, jnp.full((token.shape[0], S), S))
        hidden, cache = self._blocks_with_cache(token[:, None], visibility, cache)
        return hidden[:, 0], cache

    def _together(self, params: T) -> T:
        return params if self.mesh is None else put_together(self.mesh, params, self.config.dtype)

    def _divide(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return x if self.mesh is None else divide_rows(self.mesh, x)

    def _embed(self, tokens: Int[Array, "B T"], visibility: Visibility) -> Float[Array, "B T D"]:
        check_length(tokens.shape[1], self.config)
        # A dead slot is embedded as any other id. One beyond the embedding would be NaN, which a mask
        # does not keep out: its weight is 0, and 0 NaN is NaN.
        x = self.embedding(jnp.where(tokens < self.embedding.num_embeddings, tokens, 0))
        x = x.astype(self.config.dtype) * self.config.embedding_scale
        if self.positions is not None:
            # A full row of a cache is at a depth beyond the last: what is pushed there is dropped.
            at = jnp.minimum(visibility.positions, self.config.context - 1)
            x += self.positions(at).astype(self.config.dtype)
        return self._divide(x)

    def _tied_logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        rows = self.embedding.embedding[...].astype(self.config.dtype)
        return flat_dot_general(hidden, rows.T, preferred_element_type=jnp.float32)

    def _blocks_with_cache(self, tokens, visibility, cache) -> tuple[Array, Cache]:
        # One layer after another, each with a cache of its own: layers in a loop would share one array.
        (graph, params), x, written = nnx.split(self.blocks), self._embed(tokens, visibility), []
        for i, key_values in enumerate(cache):
            own = jax.tree.map(lambda stacked, i=i: stacked[i], params)
            x, key_values = nnx.merge(graph, self._together(own))(x, visibility, key_values)
            x = self._divide(x)
            written.append(key_values)
        return self.norm(x), written


def with_whole_ends(model: Network) -> Network:
    """The same network, with all but its blocks put together from all devices, once for every use.

    Without it a loop over parts of the vocabulary's logits would do so for each of them.
    """
    if not isinstance(model, Transformer) or model.mesh is None:
        return model
    graph, blocks, ends = nnx.split(model, lambda path, _: path[0] == "blocks", ...)
    return nnx.merge(graph, blocks, put_together(model.mesh, ends))


def parameter_shapes(config: TransformerConfig) -> nnx.State:
    """Shapes and dtypes of a network's parameters; no array is made."""
    return nnx.eval_shape(lambda: nnx.state(Transformer(config, nnx.Rngs(0))))
