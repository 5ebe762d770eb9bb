"""Configuration of the transformer."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax

from sequencematch.models import nf4


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are lowered for texts longer than those of pretraining.

    Attributes:
      kind: a key of `layers.ROPE_SCALINGS`.
      factor: by how much low frequencies are divided.
      low, high: a wavelength above context/low is scaled in full, one below context/high not at all.
      context: tokens of the longest text in pretraining.
    """

    kind: str = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    context: int = 8192


# The linear maps of a block, by their paths: the widths that go in and out, names of a
# `TransformerConfig`.
LINEARS = {
    "blocks/attention/query": ("d_model", "heads_width"),
    "blocks/attention/key": ("d_model", "keys_width"),
    "blocks/attention/value": ("d_model", "keys_width"),
    "blocks/attention/out": ("heads_width", "d_model"),
    "blocks/feed_forward/gate": ("d_model", "d_ff"),
    "blocks/feed_forward/up": ("d_model", "d_ff"),
    "blocks/feed_forward/down": ("d_ff", "d_model"),
}


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters of the blocks' linear maps (Hu et al. 2021).

    Attributes:
      rank: r, inner width of an adapter; 0 for no adapters.
      alpha: an adapter's product is multiplied by alpha/r.
      targets: regular expression; a linear map has an adapter if it is found in its path, a key of
        `LINEARS`.
      base: what the kernels of all maps are, a key of `lora.BASES`.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: str = "blocks"
    base: str = "float"

    @property
    def scale(self) -> float:
        """alpha/r."""
        return self.alpha / self.rank

    def adapts(self, path: str) -> bool:
        """Whether the linear map of a path has an adapter."""
        return self.rank > 0 and bool(re.search(self.targets, path))


class Mlp(NamedTuple):
    """The feed-forward half of a block.

    Attributes:
      activate: the function of the hidden layer.
      gated: whether it is multiplied by a second linear map of the input.
    """

    activate: Callable[[jax.Array], jax.Array]
    gated: bool


# Name -> the feed-forward half (Shazeer 2020). Every gelu is the tanh form, as in GPT-2 and Gemma.
gelu = partial(jax.nn.gelu, approximate=True)
MLPS = {"swiglu": Mlp(jax.nn.silu, True), "geglu": Mlp(gelu, True), "gelu": Mlp(gelu, False)}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a decoder-only transformer, and the few choices that tell families apart.

    Attributes:
      vocab_size: V, number of ids.
      edits: how many of them, the last, are edits: they have logits, but no embedding.
      layers: number of blocks.
      d_model: D, width of the residual stream.
      heads: H, query heads; a multiple of kv_heads.
      kv_heads: K, key and value heads, each shared by heads/kv_heads query heads.
      head_width: N, width of one head, an even number; 0 for d_model/heads.
      d_ff: F, width of the hidden layer of the feed-forward half.
      rope_base: base of the rotary frequencies; wavelengths go up to about 2 pi rope_base tokens.
      rope_scaling: how these are lowered for long texts.
      positions: a key of `POSITIONS`.
      context: the most tokens of a text that the model was pretrained on; 0 where that is not known.
        Learned positions reach no further.
      norm: a key of `layers.NORMS`.
      norm_eps: what is added to a variance.
      mlp: a key of `MLPS`.
      qkv_bias, out_bias, mlp_bias: whether these linear maps have biases.
      qk_norm: whether queries and keys are normalised, head by head.
      tied: whether the logits of what has an embedding are read with the embedding's rows.
      embedding_scale: what embeddings are multiplied by.
      dtype: dtype of the activations; logits and sums are float32.
      param_dtype: dtype of the parameters.
      attention: name of the kernel, a key of `attention.ATTENTION`.
      remat: what the backward pass computes again, a key of `transformer.REMAT`.
      lora: the adapters.

    Raises:
      ValueError: sizes that do not divide as above, no id that is not an edit, or adapters of nothing.
    """

    vocab_size: int
    layers: int
    d_model: int
    heads: int
    kv_heads: int
    d_ff: int
    edits: int = 0
    head_width: int = 0
    rope_base: float = 10_000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    positions: str = "rotary"
    context: int = 0
    norm: str = "rms"
    norm_eps: float = 1e-6
    mlp: str = "swiglu"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    embedding_scale: float = 1.0
    dtype: str = "float32"
    param_dtype: str = "float32"
    attention: str = "chunked"
    remat: str = "none"
    lora: Lora = field(default_factory=Lora)

    def __post_init__(self):
        if not self.head_width and self.d_model % (2 * self.heads):
            raise ValueError(
                f"model.d_model={self.d_model} must be a multiple of twice model.heads={self.heads}: "
                "each head needs an even width for rotary positions"
            )
        if self.head_width % 2:
            raise ValueError(
                f"model.head_width={self.head_width} must be even, for rotary positions"
            )
        if self.mlp not in MLPS:
            raise ValueError(f"model.mlp={self.mlp!r} must be one of {', '.join(MLPS)}")
        if not 0 <= self.edits < self.vocab_size:
            raise ValueError(f"{self.edits} edits must be some, not all, of {self.vocab_size} ids")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model.heads={self.heads} must be a multiple of model.kv_heads={self.kv_heads}"
            )
        if self.lora.rank and not any(map(self.lora.adapts, self.linears)):
            raise ValueError(
                f"model.lora_targets={self.lora.targets!r} is found in no linear map of the model; "
                f"these are {', '.join(self.linears)}"
            )
        wrong = sorted({width for width, _ in self.linears.values() if width % nf4.TILE})
        if self.lora.base == "nf4" and wrong:
            raise ValueError(
                f"model.lora_base='nf4' needs widths that are multiples of {nf4.TILE}, which the "
                f"model's {' and '.join(map(str, wrong))} are not"
            )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear maps that a block has: path -> (width that goes in, width that comes out)."""
        return {
            path: (getattr(self, inner), getattr(self, outer))
            for path, (inner, outer) in LINEARS.items()
            if MLPS[self.mlp].gated or not path.endswith("gate")
        }

    @property
    def heads_width(self) -> int:
        """H N, width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def keys_width(self) -> int:
        """Width of all key heads together."""
        return self.kv_heads * self.head_dim

    @property
    def head_dim(self) -> int:
        """N, width of one head."""
        return self.head_width or self.d_model // self.heads

    @property
    def embedding_rows(self) -> int:
        """Number of ids that have an embedding: all but the edits."""
        return self.vocab_size - self.edits

    @property
    def position_rows(self) -> int:
        """Number of learned positions; 0 where positions are not learned."""
        return self.context if self.positions == "learned" else 0

    @property
    def block_matrices(self) -> int:
        """Parameters in the matrices of a block, adapters left out: D (2 H N + 2 K N + 3 F)."""
        return sum(inner * outer for inner, outer in self.linears.values())

    @property
    def matrices(self) -> int:
        """Parameters in matrices, adapters left out: L D (2 H N + 2 K N + 3 F) + (2 V - edits) D.

        F is d_ff. Without a gate 2 F; tied (V - edits) D less; and the learned positions.
        """
        rows = self.vocab_size + (0 if self.tied else self.embedding_rows) + self.position_rows
        return self.layers * self.block_matrices + self.d_model * rows

    @property
    def vectors(self) -> int:
        """Parameters in vectors: gains of the norms, two a block and one at the end, and biases."""
        norm = 2 if self.norm == "layer" else 1  # a gain, and in LayerNorm a bias
        block = 2 * norm * self.d_model + 2 * norm * self.head_dim * self.qk_norm
        block += (self.heads_width + 2 * self.keys_width) * self.qkv_bias
        block += self.d_model * self.out_bias
        block += ((1 + MLPS[self.mlp].gated) * self.d_ff + self.d_model) * self.mlp_bias
        return self.layers * block + norm * self.d_model
