"""Which tokens may be drawn, against transformers' processors on the same logits."""

import jax
import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from sequencematch.rollout.truncation import TRUNCATIONS, penalise

pytestmark = pytest.mark.stress

LOGITS = np.random.default_rng(3).normal(size=(500, 300)).astype(np.float32) * 3
LOGITS[::5, 40:90] = -np.inf
CASES = [
    ("top_k", theirs.TopKLogitsWarper, (1.0, 5.0, 400.0)),
    ("top_p", theirs.TopPLogitsWarper, (0.1, 0.7, 0.95)),
    ("min_p", theirs.MinPLogitsWarper, (0.01, 0.1, 0.5)),
    ("typical", theirs.TypicalLogitsWarper, (0.1, 0.5, 0.95)),
]


@pytest.mark.parametrize(("name", "warper", "values"), CASES)
def test_a_rule_keeps_the_same_tokens(name, warper, values):
    for value in values:
        kept = jax.vmap(TRUNCATIONS[name], (0, None))(LOGITS, value)
        found = np.where(kept, LOGITS, -np.inf)
        expected = warper(int(value) if name == "top_k" else value)(
            torch.zeros(len(LOGITS), 1, dtype=torch.long), torch.tensor(LOGITS)
        )
        np.testing.assert_array_equal(found, expected.numpy())


def test_the_repetition_penalty_is_the_same():
    ids = np.random.default_rng(0).integers(300, size=(500, 20))
    expected = theirs.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor(ids), torch.tensor(LOGITS))
    seen = np.zeros(LOGITS.shape, bool)
    np.put_along_axis(seen, ids, True, axis=1)
    found = jax.vmap(penalise, (0, 0, None))(LOGITS, seen, 1.3)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
