"""Parts of a block: linear maps, norms, rotary positions, the feed-forward half."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import qwix
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from sequencematch.models import nf4
from sequencematch.models.config import MLPS, RopeScaling, TransformerConfig
from sequencematch.models.lora import BASES, PRODUCT, LowRankLinear, apply_all


def linear(
    inputs: int,
    outputs: int,
    config: TransformerConfig,
    rngs: nnx.Rngs,
    result: str | None = None,
    bias: bool = False,
    path: str = "",
) -> nnx.Linear:
    """A linear map, with parameters and activations in the model's dtypes.

    Args:
      inputs, outputs: widths.
      config: gives the dtypes.
      rngs: source of the initial parameters.
      result: dtype of the result, and of the sums that make it; None for the model's dtype.
      bias: whether a bias is added.
      path: of one of a block's maps, a key of `config.LINEARS`; others have no adapter.
    """
    base = config.lora.base if path else "float"
    # Standard deviation 1/sqrt(inputs): outputs have about the variance of the inputs.
    draw = nnx.initializers.normal(inputs**-0.5)
    has_adapter = bool(path) and config.lora.adapts(path)
    make = partial(LowRankLinear, lora=config.lora) if has_adapter else NamedLinear
    return make(
        inputs,
        outputs,
        use_bias=bias,
        dtype=jnp.dtype(config.dtype),
        param_dtype=jnp.dtype(config.param_dtype),
        kernel_init=lambda *args: BASES[base](draw(*args)),
        dot_general=DOT_GENERAL[base],
        promote_dtype=cast,
        preferred_element_type=result and jnp.dtype(result),
        rngs=rngs,
    )


class NamedLinear(nnx.Linear):
    """y = x W + b; an `nnx.Linear` whose y has a name, as that of a `LowRankLinear`."""

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
        return checkpoint_name(super().__call__(x), PRODUCT)


def cast(arrays: tuple, *, dtype: Any) -> tuple:
    """Arrays in a dtype, quantised ones as well; None stays None."""
    return tuple(x if x is None else x.astype(dtype) for x in arrays)


def flat_dot_general(
    x: Float[Array, "*batch D"], kernel: Float[Array, "D F"], *_, **options
) -> Float[Array, "*batch F"]:
    """x @ kernel, with all axes of x but the last flattened into one.

    A `dot_general` for `nnx.Linear`. The gradient with respect to the kernel is then a product of two
    matrices as well: on CPUs three times as fast as a contraction over B and T separately.
    """
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


def nf4_dot_general(
    x: Float[Array, "*batch D"], kernel: qwix.QArray, *_, **options
) -> Float[Array, "*batch F"]:
    """x @ kernel, as `flat_dot_general`; the matrix in floats exists while it is read only."""

    @jax.checkpoint  # the backward pass makes it again
    def product(x: Array, kernel: qwix.QArray) -> Array:
        # 0 x is added to the levels, so that they seem to come from x: a compiler might else make
        # the matrices of all layers before the first is read, and in a sampler's loop before the loop.
        # `optimization_barrier` does not serve: on CPUs XLA removes it before it moves code.
        row = x.reshape(-1, x.shape[-1])[0]
        zero = (0 * row).astype(kernel.qvalue.dtype)
        kernel = kernel.replace(qvalue=kernel.qvalue + zero[:, None])
        return flat_dot_general(x, nf4.dequantize(kernel), **options)

    return product(x, kernel)


# What a kernel is, a key of `lora.BASES` -> (x, kernel, ...) -> x @ kernel; of `nnx.Linear`.
DOT_GENERAL = {"float": flat_dot_general, "bfloat16": flat_dot_general, "nf4": nf4_dot_general}


class OffsetRMSNorm(nnx.Module):
    """RMSNorm that multiplies by 1 + scale (Gemma): a scale of 0 changes nothing."""

    def __init__(self, width: int, *, epsilon: float, dtype, param_dtype, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.zeros(width, param_dtype))
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        y, gain = x.astype(jnp.float32), 1 + self.scale[...].astype(jnp.float32)
        variance = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
        return (y * jax.lax.rsqrt(variance + self.epsilon) * gain).astype(self.dtype)


# Name -> norm of the last axis. Activations of GPT-2 have means far from 0, where the mean of squares
# less the square of the mean is not exact in float32.
NORMS = {
    "rms": nnx.RMSNorm,
    "rms_plus_one": OffsetRMSNorm,
    "layer": partial(nnx.LayerNorm, use_fast_variance=False),
}


def norm(width: int, config: TransformerConfig, rngs: nnx.Rngs) -> nnx.Module:
    """The configuration's norm, of vectors of a width."""
    dtype, param_dtype = jnp.dtype(config.dtype), jnp.dtype(config.param_dtype)
    make = NORMS[config.norm]
    return make(width, epsilon=config.norm_eps, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def table(rows: int, config: TransformerConfig, rngs: nnx.Rngs) -> nnx.Embed:
    """A table of rows of the model's width, which are taken in the dtype of the parameters.

    The gradient of a row is a sum over all places of its token. In bfloat16, to which activations may
    be cast afterwards, it would stop growing after some 256 of them.
    """
    dtype = jnp.dtype(config.param_dtype)
    return nnx.Embed(rows, config.d_model, dtype=dtype, param_dtype=dtype, rngs=rngs)


def scale_as_llama3(frequency: Float[Array, " half"], s: RopeScaling) -> Float[Array, " half"]:
    """Divides low frequencies by the factor, high ones not, those between in part (Llama 3.1)."""
    periods = s.context * frequency / (2 * jnp.pi)  # in a text of pretraining's length
    kept = jnp.clip((periods - s.low) / (s.high - s.low), 0, 1)
    return kept * frequency + (1 - kept) * frequency / s.factor


# Name -> (frequencies, scaling) -> frequencies.
ROPE_SCALINGS = {
    "none": lambda frequency, _: frequency,
    "linear": lambda frequency, scaling: frequency / scaling.factor,  # Chen et al. 2023
    "llama3": scale_as_llama3,
}


def rope_frequencies(config: TransformerConfig) -> Float[Array, " half"]:
    """Angle by which each pair of a head is rotated from one position to the next."""
    half = config.head_dim // 2
    frequency = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    return ROPE_SCALINGS[config.rope_scaling.kind](frequency, config.rope_scaling)


def rotate(
    x: Float[Array, "B T heads N"],
    positions: Int[Array, "B T"],
    frequency: Float[Array, " half"],
) -> Float[Array, "B T heads N"]:
    """Rotary positions (Su et al. 2021): rotates the pair (x_i, x_{i+N/2}) by p frequency_i.

    Args:
      x: queries or keys, [B, T, heads, N].
      positions: int32[B, T], the position p of each token.
      frequency: [N/2], such as base^(-2i/N).
    """
    # In float32 whatever the dtype of x: bfloat16 cannot tell neighbouring large positions apart.
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class FeedForward(nnx.Module):
    """The feed-forward half: (f(x W_gate) * x W_up) W_down, or f(x W_up) W_down without a gate.

    SwiGLU (Shazeer 2020) is the first with f = silu.
    """

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        D, F, bias = config.d_model, config.d_ff, config.mlp_bias
        self.activate, gated = MLPS[config.mlp]

        def make(inputs: int, outputs: int, name: str) -> nnx.Linear:
            path = f"blocks/feed_forward/{name}"
            return linear(inputs, outputs, config, rngs, bias=bias, path=path)

        self.gate = make(D, F, "gate") if gated else None
        self.up = make(D, F, "up")
        self.down = make(F, D, "down")

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        if self.gate is None:
            return self.down(self.activate(self.up(x)))
        gate, up = apply_all([self.gate, self.up], x)
        return self.down(self.activate(gate) * up)
