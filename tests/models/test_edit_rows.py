"""Edits that are new to a model begin with the noise rate."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp

from sequencematch.core import mdp
from sequencematch.core.trajectory import build_trajectory
from sequencematch.models.config import TransformerConfig
from sequencematch.models.edit_rows import edit_rows, first_edit_rows, fit_row
from sequencematch.models.transformer import Transformer
from tests import oracles

PAD, BOS, EOS = range(3)
V, EDITS, SLOTS = 40, {40: 1, 41: 2}, 20
MDP = mdp.make(V + len(EDITS), eos=EOS, pad=PAD, never=[BOS], edits=EDITS)


def lstsq(hidden, target, ridge):
    """The ridge as rows of a plain least squares problem."""
    D = hidden.shape[1]
    weight = ridge * np.mean(np.sum(hidden**2, axis=0))
    rows = np.concatenate([hidden, np.sqrt(weight) * np.eye(D)])
    return np.linalg.lstsq(rows, np.concatenate([target, np.zeros(D)]), rcond=None)[0]


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_a_row_is_that_of_least_squares(shape, ridge):
    rng = np.random.default_rng(0)
    hidden, target = rng.normal(size=shape), 3 + rng.normal(size=shape[0])
    np.testing.assert_allclose(
        fit_row(hidden, target, ridge), lstsq(hidden, target, ridge), rtol=1e-9
    )


@pytest.mark.parametrize("edits", [1, 3])
def test_edits_share_the_noise_rate(edits):
    """Where V is linear in the state, P(edits) is eta / (1 + eta)."""
    rng, eta = np.random.default_rng(1), 0.2
    hidden = np.concatenate([rng.normal(size=(50, 4)), np.ones((50, 1))], axis=1)
    values = hidden @ rng.normal(size=5) + 12
    logits = hidden @ edit_rows(hidden, values, eta, edits, ridge=1e-9).astype(np.float64)
    assert logits.shape == (50, edits)
    odds = np.exp(logsumexp(logits, axis=1) - values)
    np.testing.assert_allclose(odds / (1 + odds), eta / (1 + eta), rtol=1e-4)


@pytest.fixture(scope="module")
def model():
    sizes = dict(layers=2, d_model=32, heads=4, kv_heads=2, d_ff=48)
    return Transformer(TransformerConfig(vocab_size=V + 2, edits=2, **sizes), nnx.Rngs(0))


@pytest.fixture(scope="module")
def batches():
    """Two batches of random strings, with edits in them as an expert's have."""
    rng = np.random.default_rng(0)

    def episode():
        actions = oracles.random_actions(rng, 15, ordinary=range(3, V), edits=[*EDITS])
        return oracles.lay_out_episode([BOS, 3], actions, actions, slots=SLOTS, filler=PAD)

    build = jax.jit(jax.vmap(partial(build_trajectory, MDP)))
    return [build(oracles.stack_episodes([episode() for _ in range(16)])) for _ in range(2)]


@nnx.jit
def run_network(model, batch):
    hidden = model.hidden(batch.tokens, batch.visibility)
    return hidden, model.logits(hidden)


def decisions(model, batch):
    """Hidden state and V without edits at every decision."""
    hidden, logits = map(np.asarray, run_network(model, batch))
    rows, time = np.nonzero(batch.valid)
    slots = np.asarray(batch.state)[rows, time]
    logits = np.where(MDP.legal, logits, -np.inf)[..., :V]
    return hidden[rows, slots], logsumexp(logits, axis=-1)[rows, slots]


@pytest.mark.stress
@pytest.mark.parametrize("eta", [0.001, 0.1])
def test_edits_begin_near_the_noise_rate(model, batches, eta):
    """On the batch that was fitted, and on another."""
    rows = first_edit_rows(model, MDP, batches[0], eta)
    assert rows.shape == (32, 2) and rows.dtype == np.float32
    for batch in batches:
        hidden, values = decisions(model, batch)
        odds = np.exp(logsumexp(hidden @ rows, axis=1) - values)
        found = odds / (1 + odds)
        assert eta / 2 < np.median(found) < 2 * eta
        assert eta / 4 < np.quantile(found, 0.05) and np.quantile(found, 0.95) < 4 * eta


@pytest.mark.stress
def test_only_decisions_are_fitted_on(model, batches):
    """What padding and prompts hold plays no part."""
    rows, (hidden, values) = (
        first_edit_rows(model, MDP, batches[0], 0.1),
        decisions(model, batches[0]),
    )
    expected = lstsq(hidden, values + np.log(0.05), 0.01)
    np.testing.assert_allclose(rows, np.stack([expected] * 2, axis=1), rtol=1e-3, atol=1e-5)
