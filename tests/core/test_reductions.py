"""Reductions under a mask: action values, sums over steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core import reductions

T, V = 10, 7
LEGAL = np.array([False, True, True, False, True, True, True])


@pytest.fixture
def logits():
    return jax.random.normal(jax.random.key(0), (T, V))


@pytest.fixture
def actions():
    return jnp.asarray(np.random.default_rng(0).choice(np.flatnonzero(LEGAL), T), jnp.int32)


def test_action_values_are_logit_and_logsumexp(logits, actions):
    values = reductions.action_values(logits, actions, LEGAL)
    exact = np.asarray(logits, np.float64)
    np.testing.assert_allclose(values.q, exact[np.arange(T), actions], rtol=1e-6)
    np.testing.assert_allclose(values.v, np.log(np.exp(exact[:, LEGAL]).sum(1)), rtol=1e-6)


def test_illegal_actions_do_not_change_the_values(logits, actions):
    other = jnp.where(LEGAL, logits, 1e9)
    for a, b in zip(
        reductions.action_values(logits, actions, LEGAL),
        reductions.action_values(other, actions, LEGAL),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_values_of_bfloat16_logits_are_float32(logits, actions):
    half = logits.astype(jnp.bfloat16)
    values = reductions.action_values(half, actions, LEGAL)
    assert values.q.dtype == values.v.dtype == jnp.float32
    exact = reductions.action_values(half.astype(jnp.float32), actions, LEGAL)
    np.testing.assert_array_equal(values.v, exact.v)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradient_is_finite_and_zero_at_illegal_actions(logits, actions, scale):
    def loss(logits):
        values = reductions.action_values(scale * logits, actions, LEGAL)
        return jnp.sum(values.q - values.v)

    gradient = np.asarray(jax.grad(loss)(logits))
    assert np.isfinite(gradient).all()
    assert (gradient[:, ~LEGAL] == 0).all()
    probability = jax.nn.softmax(reductions.legal_logits(scale * logits, LEGAL))
    expected = scale * (jax.nn.one_hot(actions, V) - probability)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5 * scale)


def test_gradient_is_finite_at_logits_masked_before(logits, actions):
    once = reductions.legal_logits(logits, LEGAL)
    gradient = jax.grad(lambda x: jnp.sum(reductions.action_values(x, actions, LEGAL).v))(once)
    assert np.isfinite(np.asarray(gradient)).all()


REDUCTIONS = {
    "total": reductions.total,
    "mean": lambda x, m: reductions.mean(x, m).value,
    "least": lambda x, m: reductions.extremes(x, m)[0],
    "most": lambda x, m: reductions.extremes(x, m)[1],
}
PLAIN = {"total": np.sum, "mean": np.mean, "least": np.min, "most": np.max}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_under_a_mask_equals_that_of_the_subset(name):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(3, 8)).astype(np.float32), rng.random((3, 8)) < 0.6
    reduce = REDUCTIONS[name]
    np.testing.assert_allclose(
        reduce(jnp.asarray(x), jnp.asarray(mask)), PLAIN[name](x[mask]), rtol=1e-5
    )
    # Masked entries may be anything, even nan, and have no gradient.
    for other in (1e30, -1e30, np.inf, np.nan):
        y = jnp.asarray(np.where(mask, x, np.float32(other)))
        np.testing.assert_allclose(
            reduce(y, jnp.asarray(mask)), reduce(jnp.asarray(x), jnp.asarray(mask))
        )
        gradient = np.asarray(jax.grad(reduce)(y, jnp.asarray(mask)))
        assert (gradient[~mask] == 0).all() and np.isfinite(gradient).all()
        assert gradient[mask].any()


def test_empty_mask_gives_zero_mean_and_infinite_extremes():
    x, nothing = jnp.ones(4), jnp.zeros(4, bool)
    assert reductions.mean(x, nothing).value == 0 and reductions.total(x, nothing) == 0
    assert (jax.grad(REDUCTIONS["mean"])(x, nothing) == 0).all()
    assert reductions.extremes(x, nothing) == (jnp.inf, -jnp.inf)


def test_sum_of_bfloat16_is_float32():
    x = jnp.full(4096, 0.1, jnp.bfloat16)
    total = reductions.total(x, jnp.ones(4096, bool))
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, 4096 * float(x[0]), rtol=1e-6)
