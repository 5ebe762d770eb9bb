"""Ways to choose an action, against the distributions that they define."""

import jax
import numpy as np
import pytest

from sequencematch.rollout import decoding
from tests.rollout.samples import (
    BOS,
    EDITS,
    EOS,
    LETTERS,
    MDP,
    decision_mask,
    rows,
    sample,
    score,
    to_numpy,
)


def test_greedy_takes_the_most_likely_action(model, greedy_samples):
    episodes, _ = greedy_samples
    logits = np.asarray(score(model, episodes))
    taken = decision_mask(episodes)
    chosen = np.take_along_axis(logits, episodes.labels[..., None], axis=-1)[..., 0]
    assert (chosen[taken] >= logits.max(-1)[taken] - 1e-4).all()
    two, best = np.sort(logits, axis=-1)[..., -2:].transpose(2, 0, 1)
    clear = taken & (best - two > 1e-3)
    assert clear.sum() > 0.9 * taken.sum()
    assert (episodes.labels == logits.argmax(-1))[clear].all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_temperature_draws_follow_the_softmax(model, temperature):
    """Log-probabilities are those of the policy at any temperature."""
    count = 3000
    prompt = np.tile(np.array([BOS, 7, 9], np.int32), (count, 1))
    start = np.full(count, 2, np.int32)
    choose = decoding.with_temperature(temperature)
    episodes, log_probs = to_numpy(
        sample(model, prompt, start, jax.random.key(3), actions=1, choose=choose)
    )
    logits = np.asarray(score(model, jax.tree.map(lambda x: x[:1], episodes)))[0, 2]
    log_pi = np.asarray(jax.nn.log_softmax(logits), np.float64)
    p = np.asarray(jax.nn.softmax(logits / temperature), np.float64)
    counts = np.bincount(episodes.labels[:, 2], minlength=12)
    assert (abs(counts - count * p) <= 5 * np.sqrt(count * p * (1 - p))).all()
    np.testing.assert_allclose(log_probs[:, 2], log_pi[episodes.labels[:, 2]], atol=1e-4)


@pytest.mark.parametrize("bias", [-1.5, 0.0, 2.0])
def test_edit_bias_draws_follow_the_biased_softmax(model, bias):
    """Ratios between other actions stay, and log-probabilities are those of the policy."""
    count = 3000
    prompt = np.tile(np.array([BOS, 7, 9], np.int32), (count, 1))
    start = np.full(count, 2, np.int32)
    choose = decoding.with_edit_bias(decoding.with_temperature(1.0), MDP, bias)
    episodes, log_probs = to_numpy(
        sample(model, prompt, start, jax.random.key(4), actions=1, choose=choose)
    )
    logits = np.asarray(score(model, jax.tree.map(lambda x: x[:1], episodes)))[0, 2]
    log_pi = np.asarray(jax.nn.log_softmax(logits), np.float64)
    p = np.exp(log_pi + [bias * (action in EDITS) for action in range(12)])
    p /= p.sum()
    counts = np.bincount(episodes.labels[:, 2], minlength=12)
    assert (abs(counts - count * p) <= 5 * np.sqrt(count * p * (1 - p))).all()
    np.testing.assert_allclose(log_probs[:, 2], log_pi[episodes.labels[:, 2]], atol=1e-4)


def test_large_edit_bias_takes_only_edits_and_its_opposite_none(model, prompts):
    """Also when greedy; illegal ids stay illegal."""
    for bias, allowed in ((50.0, set(EDITS)), (-50.0, {EOS, *LETTERS})):
        for choose in (decoding.greedy, decoding.with_temperature(1.0)):
            choose = decoding.with_edit_bias(choose, MDP, bias)
            episodes, _ = to_numpy(sample(model, *prompts, jax.random.key(0), choose=choose))
            assert {action for _, actions in rows(episodes) for action in actions} <= allowed


def test_zero_edit_bias_changes_nothing(model, prompts, samples):
    choose = decoding.with_edit_bias(decoding.with_temperature(1.0), MDP, 0.0)
    again = to_numpy(sample(model, *prompts, jax.random.key(0), choose=choose))
    np.testing.assert_array_equal(again[0].tokens, samples[0].tokens)
    np.testing.assert_array_equal(again[1], samples[1])
