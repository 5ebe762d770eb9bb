"""Parts of a block against their definitions: linear maps, norms, rotary positions, feed-forward."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.models import layers
from sequencematch.models.config import RopeScaling, TransformerConfig
from sequencematch.models.layers import NORMS, FeedForward, linear, norm, rope_frequencies, rotate

T = 7
SIZES = dict(vocab_size=8, layers=1, d_model=32, heads=4, kv_heads=2, d_ff=48)


def test_rotation_is_multiplication_by_a_phase():
    """The pair (x_i, x_{i+N/2}) as a complex number times exp(i position / base^(2i/N))."""
    N, base = 8, 100.0
    x = np.random.default_rng(1).normal(size=(1, 4, 3, N)).astype(np.float32)
    positions = np.array([[0, 1, 5, 40]])
    config = TransformerConfig(**SIZES | dict(head_width=N, rope_base=base))
    out = np.asarray(rotate(jnp.asarray(x), jnp.asarray(positions), rope_frequencies(config)))
    for t in range(4):
        for head in range(3):
            for i in range(N // 2):
                z = complex(x[0, t, head, i], x[0, t, head, i + N // 2])
                z *= np.exp(1j * positions[0, t] / base ** (2 * i / N))
                actual = complex(out[0, t, head, i], out[0, t, head, i + N // 2])
                np.testing.assert_allclose(actual, z, atol=1e-5)


def test_scores_depend_on_relative_positions_only():
    q, k = jax.random.normal(jax.random.key(2), (2, 1, T, 1, 8))
    positions, frequency = jnp.arange(T)[None], rope_frequencies(TransformerConfig(**SIZES))

    def scores(shift_q, shift_k):
        a = rotate(q, positions + shift_q, frequency)
        return jnp.einsum("bthn,bshn->ts", a, rotate(k, positions + shift_k, frequency))

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


def gelu(y):
    """The tanh form."""
    return y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))


@pytest.mark.parametrize(
    ("mlp", "f"), [("swiglu", lambda y: y / (1 + np.exp(-y))), ("geglu", gelu), ("gelu", gelu)]
)
@pytest.mark.parametrize("bias", [False, True])
def test_feed_forward_equals_its_formula(mlp, f, bias):
    """(f(x W_gate) * x W_up) W_down, or f(x W_up) W_down, with biases or not, in float64."""
    config = TransformerConfig(**SIZES, mlp=mlp, mlp_bias=bias)
    module, layers = FeedForward(config, nnx.Rngs(1)), {}
    for name in ("gate", "up", "down"):
        if (layer := getattr(module, name)) is not None:
            if bias:
                layer.bias[...] = jax.random.normal(jax.random.key(len(layers)), layer.bias.shape)
            weight, shift = layer.kernel[...], layer.bias[...] if bias else 0.0
            layers[name] = partial(lambda w, b, x: x @ w + b, *map(np.float64, (weight, shift)))
    x = np.float64(jax.random.normal(jax.random.key(4), (2, T, 32)))
    hidden = f(layers["gate"](x)) * layers["up"](x) if "gate" in layers else f(layers["up"](x))
    assert ("gate" in layers) == (mlp != "gelu")
    np.testing.assert_allclose(module(jnp.float32(x)), layers["down"](hidden), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_norms_equal_their_formulas(kind):
    """Also far from a mean of 0; a norm that was not trained multiplies by 1."""
    module = norm(32, TransformerConfig(**SIZES, norm=kind, norm_eps=1e-3), nnx.Rngs(0))
    x = np.float64(5 + jax.random.normal(jax.random.key(5), (3, 32)))
    centred = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    plain = centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(module(jnp.float32(x)), plain, atol=1e-5)
    module.scale[...] = jnp.arange(32.0)
    gain = np.arange(32) + (kind == "rms_plus_one")
    np.testing.assert_allclose(module(jnp.float32(x)), plain * gain, rtol=1e-5, atol=1e-4)


def test_scaled_frequencies():
    """Linear divides all; Llama 3 the low ones, keeps the high ones, and goes from one to the other."""
    sizes = SIZES | dict(head_width=32, rope_base=1e4)
    plain = np.asarray(rope_frequencies(TransformerConfig(**sizes)))
    np.testing.assert_allclose(plain, 1e4 ** (-np.arange(16) / 16), rtol=1e-5)

    def frequencies(*scaling):
        config = TransformerConfig(**sizes, rope_scaling=RopeScaling(*scaling))
        return np.asarray(rope_frequencies(config))

    np.testing.assert_allclose(frequencies("linear", 4.0), plain / 4, rtol=1e-6)
    wavelength = 2 * np.pi / plain
    ratio = frequencies("llama3", 8.0, 1.0, 4.0, 1000) / plain
    assert (ratio[wavelength < 250] == 1).all() and (wavelength < 250).any()
    np.testing.assert_allclose(ratio[wavelength > 1000], 1 / 8, rtol=1e-6)
    between = ratio[(wavelength > 250) & (wavelength < 1000)]
    assert len(between) and ((between > 1 / 8) & (between < 1)).all()
    assert (np.diff(ratio) <= 1e-7).all()


def test_the_gradient_of_a_row_is_summed_in_float32():
    """In bfloat16 a sum of ones ends at 256: the next one is rounded away."""
    sizes = TransformerConfig(4, 1, 8, 2, 1, 8, dtype="bfloat16")
    graph, rows = nnx.split(layers.table(4, sizes, nnx.Rngs(0)))

    def total(rows):
        return jnp.sum(nnx.merge(graph, rows)(jnp.zeros(1000, int)).astype("bfloat16"), axis=0)[0]

    (gradient,) = jax.tree.leaves(jax.grad(lambda rows: total(rows).astype("float32"))(rows))
    assert gradient.dtype == "float32" and float(gradient[0, 0]) == 1000
