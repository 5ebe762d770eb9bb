"""Parts of a block against their definitions: linear maps, rotary positions, SwiGLU."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sequencematch.models.config import TransformerConfig
from sequencematch.models.layers import FeedForward, linear, rotate

T = 7
SIZES = dict(vocab_size=8, layers=1, d_model=32, heads=4, kv_heads=2, d_ff=48)


def test_rotation_is_multiplication_by_a_phase():
    """The pair (x_i, x_{i+N/2}) as a complex number times exp(i position / base^(2i/N))."""
    N, base = 8, 100.0
    x = np.random.default_rng(1).normal(size=(1, 4, 3, N)).astype(np.float32)
    positions = np.array([[0, 1, 5, 40]])
    out = np.asarray(rotate(jnp.asarray(x), jnp.asarray(positions), base))
    for t in range(4):
        for head in range(3):
            for i in range(N // 2):
                z = complex(x[0, t, head, i], x[0, t, head, i + N // 2])
                z *= np.exp(1j * positions[0, t] / base ** (2 * i / N))
                actual = complex(out[0, t, head, i], out[0, t, head, i + N // 2])
                np.testing.assert_allclose(actual, z, atol=1e-5)


def test_scores_depend_on_relative_positions_only():
    q, k = jax.random.normal(jax.random.key(2), (2, 1, T, 1, 8))
    positions = jnp.arange(T)[None]

    def scores(shift_q, shift_k):
        a = rotate(q, positions + shift_q, 1e4)
        return jnp.einsum("bthn,bshn->ts", a, rotate(k, positions + shift_k, 1e4))

    np.testing.assert_allclose(scores(13, 13), scores(0, 0), atol=1e-5)
    assert np.max(abs(scores(1, 0) - scores(0, 0))) > 0.1


def test_linear_and_its_gradients_equal_the_contraction_over_all_axes():
    """Also in bfloat16, where the parameters stay float32."""
    x, weight = jax.random.normal(jax.random.key(3), (2, 2, T, 32))
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.3)):
        layer = linear(32, 32, TransformerConfig(**SIZES, dtype=dtype), nnx.Rngs(0))
        kernel = layer.kernel[...]
        out, pull = jax.vjp(lambda x, layer=layer: layer(x), x)
        assert out.dtype == jnp.dtype(dtype) and kernel.dtype == jnp.float32
        np.testing.assert_allclose(out, jnp.einsum("btd,df->btf", x, kernel), atol=tolerance)
        (slope,) = pull(weight.astype(dtype))
        expected = jnp.einsum("btf,df->btd", weight, kernel)
        np.testing.assert_allclose(slope, expected, atol=tolerance)
        gradient = nnx.grad(lambda layer: jnp.sum(layer(x) * weight))(layer)
        expected = jnp.einsum("btd,btf->df", x, weight)
        np.testing.assert_allclose(gradient.kernel[...], expected, atol=10 * tolerance)


def test_feed_forward_is_swiglu():
    """(silu(x W_gate) * x W_up) W_down, with silu(y) = y / (1 + exp(-y)), in float64."""
    module = FeedForward(TransformerConfig(**SIZES), nnx.Rngs(1))
    x = jax.random.normal(jax.random.key(4), (2, T, 32))
    gate, up, down = (
        np.asarray(layer.kernel[...], np.float64) for layer in (module.gate, module.up, module.down)
    )
    y = np.asarray(x, np.float64) @ gate
    expected = (y / (1 + np.exp(-y)) * (np.asarray(x, np.float64) @ up)) @ down
    np.testing.assert_allclose(module(x), expected, atol=1e-5)
