"""The optimiser and its schedule against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.models.sharding import path_name
from sequencematch.setup.defaults import defaults
from sequencematch.train.optimizer import is_matrix, learning_rate, make_optimizer


def test_the_learning_rate_warms_up_to_its_peak_and_decays_to_its_final_share():
    config = defaults().optimizer
    config.learning_rate, config.warmup, config.final = 3e-3, 10, 0.2
    rate = learning_rate(config, 50, config.learning_rate)
    assert [float(rate(i)) for i in (0, 5, 10)] == pytest.approx([0, 1.5e-3, 3e-3])
    assert float(rate(30)) == pytest.approx(3e-3 * (1 + 0.2) / 2)
    # A cosine, no line: a quarter of the way it is cos(pi/4) of it.
    assert float(rate(20)) == pytest.approx(3e-3 * (0.2 + 0.8 * (1 + 0.5**0.5) / 2))
    assert float(rate(50)) == pytest.approx(0.2 * 3e-3)
    rates = [float(rate(i)) for i in range(10, 51)]
    assert rates == sorted(rates, reverse=True)


def test_the_optimizer_is_adamw_with_clipping_and_decay_of_matrices_only():
    """Against the equations of AdamW, in the warm-up; the first gradient is huge."""
    config = defaults().optimizer
    config.learning_rate, config.warmup, config.clip, config.weight_decay = 1e-2, 4, 0.5, 0.3
    rng = np.random.default_rng(0)
    params = {"matrix": rng.normal(size=(3, 2)), "vector": rng.normal(size=2)}
    gradients = [
        {k: size * rng.normal(size=x.shape) for k, x in params.items()} for size in (99, 0.01)
    ]
    optimizer, found = (
        make_optimizer(config, 50, config.learning_rate),
        jax.tree.map(jnp.float32, params),
    )
    state, m, v = optimizer.init(found), 0.0, 0.0

    def flat(tree):
        return np.concatenate([tree[k].ravel() for k in ("matrix", "vector")])

    theta, decays = flat(params), np.array([1.0] * 6 + [0.0] * 2)
    for t, gradient in enumerate(gradients, 1):
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, found)
        found = jax.tree.map(jnp.add, found, updates)
        g = flat(gradient)
        g = g * min(1.0, config.clip / np.linalg.norm(g))
        m, v = config.b1 * m + (1 - config.b1) * g, config.b2 * v + (1 - config.b2) * g**2
        scaled = m / (1 - config.b1**t) / (np.sqrt(v / (1 - config.b2**t)) + 1e-8)
        theta = theta - 1e-2 * (t - 1) / 4 * (scaled + config.weight_decay * decays * theta)
    assert flat(found) == pytest.approx(theta, rel=1e-5) and flat(params) != pytest.approx(theta)


def test_gains_and_biases_do_not_decay_also_where_they_are_stacked(transformer):
    decays = jax.tree_util.tree_leaves_with_path(is_matrix(nnx.state(transformer)))
    for path, found in decays:
        assert found == (path_name(path).split("/")[-1] in ("kernel", "embedding")), path
    assert {found for _, found in decays} == {True, False}
