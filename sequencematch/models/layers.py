"""Parts of a block: linear maps, rotary positions, SwiGLU."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from sequencematch.models.config import TransformerConfig


def linear(
    inputs: int,
    outputs: int,
    config: TransformerConfig,
    rngs: nnx.Rngs,
    result: str | None = None,
) -> nnx.Linear:
    """A linear map without bias, float32 parameters and activations in the model's dtype.

    Args:
      inputs, outputs: widths.
      config: gives the dtype.
      rngs: source of the initial parameters.
      result: dtype of the result, and of the sums that make it; None for the model's dtype.
    """
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=False,
        dtype=jnp.dtype(config.dtype),
        # Standard deviation 1/sqrt(inputs): outputs have about the variance of the inputs.
        kernel_init=nnx.initializers.normal(inputs**-0.5),
        dot_general=flat_dot_general,
        preferred_element_type=result and jnp.dtype(result),
        rngs=rngs,
    )


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


def rotate(
    x: Float[Array, "B T heads N"], positions: Int[Array, "B T"], base: float
) -> Float[Array, "B T heads N"]:
    """Rotary positions (Su et al. 2021): rotates the pair (x_i, x_{i+N/2}) by p / base^(2i/N).

    Args:
      x: queries or keys, [B, T, heads, N].
      positions: int32[B, T], the position p of each token.
      base: the configuration's `rope_base`.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    # In float32 whatever the dtype of x: bfloat16 cannot tell neighbouring large positions apart.
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class FeedForward(nnx.Module):
    """SwiGLU (Shazeer 2020): (silu(x W_gate) * x W_up) W_down."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.gate = linear(config.d_model, config.d_ff, config, rngs)
        self.up = linear(config.d_model, config.d_ff, config, rngs)
        self.down = linear(config.d_ff, config.d_model, config, rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))
