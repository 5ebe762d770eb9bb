"""Which tokens may be drawn, against slow loops over sorted tokens that follow the definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.rollout.truncation import TRUNCATIONS, penalise

ROWS = np.random.default_rng(4).normal(size=(60, 30)).astype(np.float32) * 2
ROWS[::3, 5:11] = -np.inf  # what may not be written
ROWS[::4, 20:24] = ROWS[::4, 20:21]  # ties


def probabilities(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def stays_top_k(p, k):
    return {i for i in range(len(p)) if sum(q > p[i] for q in p) < k and p[i] > 0}


def stays_top_p(p, mass):
    kept, total = set(), 0.0
    for i in np.argsort(-p, kind="stable"):
        if total >= mass:
            break
        kept.add(int(i))
        total += p[i]
    return kept


def stays_min_p(p, share):
    return {i for i in range(len(p)) if p[i] >= share * max(p)}


def stays_typical(p, mass):
    entropy = -sum(q * math.log(q) for q in p if q > 0)
    distance = {i: abs(-math.log(q) - entropy) for i, q in enumerate(p) if q > 0}
    kept, total = set(), 0.0
    for i in sorted(distance, key=distance.get):
        if total >= mass:
            break
        kept.add(i)
        total += p[i]
    return kept


RULES = {
    "top_k": (stays_top_k, [1.0, 3.0, 200.0]),
    "top_p": (stays_top_p, [0.05, 0.6, 0.9]),
    "min_p": (stays_min_p, [0.01, 0.3, 1.0]),
    "typical": (stays_typical, [0.1, 0.5, 0.9]),
}


@pytest.mark.parametrize("name", TRUNCATIONS)
def test_a_rule_keeps_what_its_definition_says(name):
    oracle, values = RULES[name]
    truncate = jax.jit(jax.vmap(TRUNCATIONS[name], (0, None)), static_argnums=1)
    for value in values:
        for logits, found in zip(ROWS, np.asarray(truncate(ROWS, value)), strict=True):
            # By their logits: which of equals are needed is for the rule to say.
            kept = {logits[i] for i in oracle(probabilities(logits), value)}
            assert {*logits[found & np.isfinite(logits)]} == kept


@pytest.mark.parametrize(("name", "all_of_it"), [("top_k", None), ("top_p", 1.0), ("min_p", 0.0)])
def test_at_its_limit_a_rule_keeps_all(name, all_of_it):
    many = 4.0 * np.random.default_rng(0).standard_normal(50_000)  # some are nearly impossible
    for logits in (jnp.asarray(ROWS[1]), jnp.asarray(many, jnp.float32)):
        whole = float(len(logits)) if name == "top_k" else all_of_it
        assert bool(TRUNCATIONS[name](logits, whole).all())


def test_a_penalty_lowers_the_logits_of_seen_tokens_alone():
    logits, seen = jnp.array([2.0, -2.0, 0.0, 4.0]), jnp.array([True, True, True, False])
    np.testing.assert_array_equal(penalise(logits, seen, 2.0), [1.0, -4.0, 0.0, 4.0])
    np.testing.assert_array_equal(penalise(logits, seen, 1.0), logits)
