"""Configuration of the transformer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a decoder-only transformer.

    Attributes:
      vocab_size: V, number of ids.
      edits: how many of them, the last, are edits: they have logits, but no embedding.
      layers: number of blocks.
      d_model: D, width of the residual stream; a multiple of heads.
      heads: H, query heads; a multiple of kv_heads.
      kv_heads: K, key and value heads, each shared by heads/kv_heads query heads.
      d_ff: width of the SwiGLU hidden layer.
      rope_base: base of the rotary frequencies; wavelengths go up to about 2 pi rope_base tokens.
      dtype: dtype of the activations; parameters, logits and sums stay float32.
      attention: name of the kernel, a key of `attention.ATTENTION`.
      remat: what the backward pass computes again, a key of `transformer.REMAT`.

    Raises:
      ValueError: sizes that do not divide as above, or no id that is not an edit.
    """

    vocab_size: int
    layers: int
    d_model: int
    heads: int
    kv_heads: int
    d_ff: int
    edits: int = 0
    rope_base: float = 10_000.0
    dtype: str = "float32"
    attention: str = "plain"
    remat: str = "none"

    def __post_init__(self):
        if self.d_model % (2 * self.heads):
            raise ValueError(
                f"model.d_model={self.d_model} must be a multiple of twice model.heads={self.heads}: "
                "each head needs an even width for rotary positions"
            )
        if not 0 <= self.edits < self.vocab_size:
            raise ValueError(f"{self.edits} edits must be some, not all, of {self.vocab_size} ids")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model.heads={self.heads} must be a multiple of model.kv_heads={self.kv_heads}"
            )

    @property
    def head_dim(self) -> int:
        """N, width of one head."""
        return self.d_model // self.heads

    @property
    def matrices(self) -> int:
        """Parameters in matrices: L (2 D^2 + 2 D K N + 3 D F) + (2 V - edits) D, for d_ff = F."""
        # Query and output are D x D; key and value D x KN; gate, up and down D x F.
        keys = self.kv_heads * self.head_dim
        block = 2 * self.d_model + 2 * keys + 3 * self.d_ff
        return self.d_model * (self.layers * block + 2 * self.vocab_size - self.edits)

    @property
    def gains(self) -> int:
        """Parameters of the norms, D each: two per block and one at the end."""
        return self.d_model * (2 * self.layers + 1)
