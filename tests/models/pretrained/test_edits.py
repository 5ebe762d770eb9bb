"""Edits start at about the noise rate, also in states that their rows were not made from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.models.pretrained.edits import edit_row

N, D, V = 400, 12, 50


@pytest.fixture(scope="module")
def states():
    """Hidden states of unit scale, and their values with a random head."""
    hidden, head = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(N, D), (D, V)]))
    return hidden, jax.nn.logsumexp(hidden @ head, axis=-1) + 5


def test_row_equals_least_squares_without_a_penalty(states):
    hidden, value = (np.float64(x) for x in states)
    expected, *_ = np.linalg.lstsq(hidden, value + np.log(0.1), rcond=None)
    np.testing.assert_allclose(edit_row(*states, 0.1, ridge=0.0), expected, atol=1e-4)


def test_a_penalty_makes_the_row_shorter(states):
    norms = [
        float(jnp.linalg.norm(edit_row(*states, 0.1, ridge=r))) for r in (0.0, 0.1, 1.0, 100.0)
    ]
    assert norms == sorted(norms, reverse=True) and norms[-1] < 0.02 * norms[0]


@pytest.mark.parametrize("eta", [0.01, 0.2])
def test_the_edit_starts_at_the_noise_rate(eta):
    """Where V is nearly linear in h, as where one direction carries it."""
    hidden, head = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(N, D), (D, V)]))
    hidden = hidden.at[:, 0].set(8.0)  # a constant direction, as every model has
    value = jax.nn.logsumexp(0.3 * hidden @ head, axis=-1) + 20
    row = edit_row(hidden[: N // 2], value[: N // 2], eta, ridge=1e-3)
    log_odds = hidden[N // 2 :] @ row - value[N // 2 :]
    assert abs(float(jnp.mean(log_odds)) - np.log(eta)) < 0.1
    assert abs(float(jnp.mean(jax.nn.sigmoid(log_odds))) - eta) < 0.3 * eta
