"""Masks and attention against their definitions, and the cache against the whole pass."""

import re
from functools import cache, partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core.types import Visibility
from sequencematch.models import attention as attention_kernels
from sequencematch.models.attention import ATTENTION, Attention, KeyValues, is_visible
from sequencematch.models.config import TransformerConfig
from sequencematch.models.layers import rope_frequencies, rotate

B, T, D = 2, 7, 32


def config(**changes):
    return TransformerConfig(
        **dict(vocab_size=8, layers=1, d_model=D, heads=4, kv_heads=2, d_ff=16) | changes
    )


def inputs(seed=0, length=T):
    x = jax.random.normal(jax.random.key(seed), (B, length, D))
    return x, jnp.broadcast_to(jnp.arange(length), (B, length))


@cache
def attention():
    return Attention(config(), nnx.Rngs(0))


@nnx.jit
def attend(module, x, visibility, cache=None):
    return module(x, visibility, cache)


def sees(until, slot=None):
    """`Visibility` of a pass over T slots, or of one query a row in some slot of a cache."""
    until = jnp.asarray(until)
    slot = jnp.broadcast_to(jnp.arange(T), until.shape) if slot is None else slot[:, None]
    return Visibility(slot, slot, until)


EVERYTHING = jnp.full((B, T), T)


# Visibility.


def test_visibility_equals_its_definition():
    """The query in slot i sees key slot j iff j <= i < visible_until[j]."""
    rng = np.random.default_rng(0)
    until, slot = rng.integers(0, T + 2, size=(3, T)), rng.integers(0, T + 1, size=(3, 5))
    mask = np.asarray(is_visible(jnp.asarray(slot), jnp.asarray(until)))
    assert mask.shape == (3, 5, T)
    for row in range(3):
        for i in range(5):
            for j in range(T):
                assert mask[row, i, j] == (j <= slot[row, i] < until[row, j])
    np.testing.assert_array_equal(is_visible(jnp.asarray(slot[1]), jnp.asarray(until[1])), mask[1])


def test_visibility_without_edits_is_causal():
    mask = is_visible(sees(EVERYTHING).slot, EVERYTHING)
    np.testing.assert_array_equal(mask, np.tril(np.ones((B, T, T), bool)))


@pytest.mark.parametrize("seen", [2, 5])
def test_changed_slot_changes_only_queries_that_see_it(seen):
    """Slot 2 is seen by the queries 2..seen."""
    until = jnp.array([[T, T, seen + 1, T, T, T, T]] * B)
    x, _ = inputs()
    before, _ = attend(attention(), x, sees(until))
    after, _ = attend(attention(), x.at[:, 2].add(1.0), sees(until))
    changed = np.asarray(abs(after - before) > 1e-6).any(axis=(0, 2))
    assert changed.tolist() == [2 <= i <= seen for i in range(T)]


def test_attention_depends_on_relative_positions_only():
    x, positions = inputs()
    visibility = sees(EVERYTHING)
    here, _ = attend(attention(), x, visibility)
    there, _ = attend(attention(), x, visibility._replace(positions=positions + 29))
    np.testing.assert_allclose(here, there, atol=1e-5)
    # It does depend on relative positions.
    stretched, _ = attend(attention(), x, visibility._replace(positions=2 * positions))
    assert np.max(abs(stretched - here)) > 1e-3


# Grouped queries.


def test_grouped_heads_equal_full_heads_with_repeated_kernels():
    few, many = attention(), Attention(config(kv_heads=4), nnx.Rngs(1))
    N = D // 4
    many.query.kernel[...] = few.query.kernel[...]
    many.out.kernel[...] = few.out.kernel[...]
    for name in ("key", "value"):
        shared = getattr(few, name).kernel[...].reshape(D, 2, N)
        getattr(many, name).kernel[...] = jnp.repeat(shared, 2, axis=1).reshape(D, 4 * N)
    x, _ = inputs()
    a, kv = attend(few, x, sees(EVERYTHING))
    b, _ = attend(many, x, sees(EVERYTHING))
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert (kv.k.shape, kv.v.shape) == ((B, 2, N, T), (B, 2, T, N))


def test_attention_equals_the_loop():
    """softmax(q.k/sqrt N) v over the visible keys, head by head, in float64."""
    module, (x, positions) = attention(), inputs()
    until = jnp.array([[T, T, 4, 4, T, 6, T], [T] * T])
    out, _ = attend(module, x, sees(until))
    heads, N = 4, D // 4

    def split(linear):
        return (x @ linear.kernel[...]).reshape(B, T, -1, N)

    frequency = rope_frequencies(config())
    q, k = (rotate(split(m), positions, frequency) for m in (module.query, module.key))
    q, k, v = (np.asarray(y, np.float64) for y in (q, k, split(module.value)))
    mixed = np.zeros((B, T, heads, N))
    for b in range(B):
        for i in range(T):
            seen = [j for j in range(T) if j <= i < until[b, j]]
            for h in range(heads):
                scores = np.array([q[b, i, h] @ k[b, j, h // 2] for j in seen]) / np.sqrt(N)
                weight = np.exp(scores) / np.exp(scores).sum()
                mixed[b, i, h] = sum(w * v[b, j, h // 2] for w, j in zip(weight, seen, strict=True))
    expected = mixed.reshape(B, T, -1) @ np.asarray(module.out.kernel[...], np.float64)
    np.testing.assert_allclose(out, expected, atol=1e-5)


# Chunks of queries.


@pytest.mark.parametrize(("chunk", "spans"), [(1, 4), (3, 1), (3, 4), (T - 1, 4), (T, 4)])
def test_chunked_attention_equals_plain_attention(chunk, spans, monkeypatch):
    """Its gradients as well; where chunks divide a span, or spans the time, and where they do not."""
    monkeypatch.setattr(attention_kernels, "CHUNK", chunk)
    monkeypatch.setattr(attention_kernels, "SPANS", spans)
    shapes = [(B, T, 4, 8), (B, 2, 8, T), (B, 2, T, 8)]
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(key, s) for key, s in zip(keys[:3], shapes, strict=True))
    weights = jax.random.normal(keys[3], q.shape)
    visibility = sees(jnp.array([[T, T, 4, 4, T, 6, T], [T] * T]))

    @partial(jax.jit, static_argnums=0)
    def read(kernel, q, k, v):
        def total(q, k, v):
            return jnp.sum(weights * ATTENTION[kernel](q, k, v, visibility))

        gradients = jax.grad(total, (0, 1, 2))(q, k, v)
        return ATTENTION[kernel](q, k, v, visibility), gradients

    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-5),
        read("chunked", q, k, v),
        read("plain", q, k, v),
    )


def test_chunked_attention_makes_no_array_of_all_scores():
    """Neither forward nor backward is there an array of T x T."""

    def largest(kernel, length):
        q, k = jnp.zeros((1, length, 4, 8)), jnp.zeros((1, 2, 8, length))
        slot = jnp.arange(length)[None]
        visibility = Visibility(slot, slot, jnp.full((1, length), length))

        def total(q, k, v):
            return jnp.sum(ATTENTION[kernel](q, k, v, visibility))

        program = jax.jit(jax.grad(total, (0, 1, 2))).lower(q, k, k.swapaxes(2, 3)).as_text()
        shapes = re.findall(r"tensor<((?:\d+x)+)[a-z]", program)
        return max(prod(map(int, shape[:-1].split("x"))) for shape in shapes)

    length = 4 * attention_kernels.CHUNK
    assert largest("plain", length) >= 4 * length**2
    assert largest("chunked", length) <= 4 * length * attention_kernels.CHUNK


# The cache.


def test_cache_is_written_at_the_depth_and_read_below_it():
    """One token per row, each at its own depth, equals the whole pass."""
    module, (x, _) = attention(), inputs()
    whole, kv = attend(module, x, sees(EVERYTHING))
    # Row 0 holds three tokens, row 1 five. The values above them are garbage, to be overwritten.
    depth = jnp.array([3, 5])
    above = jnp.arange(T) >= depth[:, None, None, None]
    k, v = jnp.where(above, 99.0, kv.k), jnp.where(above.swapaxes(2, 3), 99.0, kv.v)
    token = x[jnp.arange(B), depth][:, None]
    out, written = attend(module, token, sees(EVERYTHING, depth), KeyValues(k, v))
    np.testing.assert_allclose(out[:, 0], whole[jnp.arange(B), depth], atol=1e-5)
    for row in range(B):
        upto = int(depth[row]) + 1
        np.testing.assert_allclose(written.k[row, ..., :upto], kv.k[row, ..., :upto], atol=1e-6)
        np.testing.assert_allclose(written.v[row, :, :upto], kv.v[row, :, :upto], atol=1e-6)
        assert (written.k[row, ..., upto:] == 99).all() and (written.v[row, :, upto:] == 99).all()


def test_write_beyond_the_cache_is_dropped():
    _, kv = attend(attention(), inputs()[0], sees(EVERYTHING))
    x, _ = inputs(length=1)
    _, written = attend(attention(), x, sees(EVERYTHING, jnp.full(B, T)), kv)
    np.testing.assert_array_equal(written.k, kv.k)
