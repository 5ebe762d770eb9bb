"""Searches and penalties in the sampler, against plain loops without a cache or a batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core.reductions import legal_logits
from sequencematch.core.types import Visibility
from sequencematch.rollout import search
from sequencematch.rollout.decoding import Decoding
from sequencematch.rollout.sampler import Sampling
from tests import oracles
from tests.rollout.samples import EDITS, EOS, MDP, PAD, rows, sample, to_numpy

ACTIONS, SLOTS = 7, 12
PENALTY = Decoding(0.6, repetition=1.5)
SEARCH = PENALTY._replace(contrastive=(3, 0.6))


@nnx.jit
def hidden_states(model, tokens):
    """Hidden states of a text, by a plain causal pass."""
    slots = jnp.arange(tokens.shape[1])[None]
    everything = Visibility(slots, slots, jnp.full_like(slots, tokens.shape[1]))
    return model.hidden(tokens, everything)


def read_text(model, text):
    """(hidden states of the text's tokens, logits after it)."""
    padded = np.full((1, SLOTS), PAD, np.int32)
    padded[0, : len(text)] = text
    hidden = hidden_states(model, padded)[0, : len(text)]
    logits = legal_logits(model.logits(hidden[-1:]), MDP.legal)[0]
    return np.asarray(hidden, np.float64), np.asarray(logits, np.float64)


def cosine(x, y):
    return x @ y / np.sqrt((x @ x) * (y @ y))


def write(model, prompt, decoding):
    """The actions of one answer, edits by a threshold of 0.6."""
    text, actions = list(prompt), []
    while len(actions) < ACTIONS and EOS not in actions:
        hidden, logits = read_text(model, text)
        p = np.exp(logits - logits.max())
        edits = [a for a in EDITS if a < len(p)]
        if p[edits].sum() / p.sum() > 0.6:
            action = max(edits, key=lambda a: p[a])
            text = text[: max(len(text) - EDITS[action], len(prompt))]
        else:
            penalty = np.where(logits < 0, decoding.repetition, 1 / decoding.repetition)
            seen = np.isin(np.arange(len(p)), text)
            scores = np.where(seen, logits * penalty, logits)
            scores[edits] = -np.inf
            if decoding.contrastive:
                count, weight = decoding.contrastive
                p = np.exp(scores - scores[np.isfinite(scores)].max())
                p /= p.sum()
                found = {}
                for token in np.argsort(-p)[:count]:
                    new = read_text(model, [*text, token])[0][-1]
                    worst = max(cosine(new, old) for old in hidden)
                    found[token] = (1 - weight) * p[token] - weight * worst
                action = max(found, key=found.get)
            else:
                action = int(scores.argmax())
            text.append(action)
        actions.append(int(action))
    return actions


@pytest.mark.stress
@pytest.mark.parametrize("decoding", [SEARCH, PENALTY], ids=["search", "penalty"])
def test_answers_are_those_of_a_plain_loop(model, prompts, decoding):
    """The texts compared with are the surviving ones, after edits too."""
    some = tuple(x[:5] for x in prompts)
    draw = partial(sample, model, *some, jax.random.key(0), actions=ACTIONS)
    answers = list(rows(to_numpy(draw(decoding=decoding)[0])))
    for prompt, actions in answers:
        assert actions == write(model, prompt, decoding)
    plain = list(rows(to_numpy(draw(decoding=Decoding(0.6))[0])))
    assert answers != plain and any(a in EDITS for _, each in answers for a in each)


@pytest.mark.stress
@pytest.mark.parametrize("stop_at", [0, 3])
def test_best_of_n_is_the_likeliest_of_n_draws(model, prompts, stop_at):
    """Those that came to an end go before those that were cut, also if they end at the last action."""
    drawn, n = Decoding(None, temperature=1.0, truncate=(("top_k", 3.0),)), 4
    how, key, (tokens, start) = (
        Sampling(stop_at or ACTIONS, drawn, stop_at),
        jax.random.key(5),
        prompts,
    )

    @partial(nnx.jit, static_argnames="how")
    def answer(model, tokens, start, key, how):
        return search.answer(model, MDP, tokens, start, key, how)

    best_of_them = how._replace(decoding=drawn._replace(best_of=n))
    best = to_numpy(answer(model, tokens, start, key, best_of_them))
    keys = [jax.random.fold_in(key, i) for i in range(n)]
    draws = [to_numpy(answer(model, tokens, start, each, how)) for each in keys]
    chosen, full = [], 0
    for row in range(len(tokens)):
        scores = []
        for draw in draws:
            prompt, actions = list(rows(draw.episodes))[row]
            stands = len(oracles.texts(prompt, actions, EDITS)[-1]) - len(prompt)
            is_full = stands == stop_at > 0 and actions[-1] != EOS
            full += is_full
            ended = actions[-1] == EOS or is_full
            scores.append((ended, draw.log_probs[row].sum()))
            assert draw.taken[row] == len(actions)
        chosen.append(max(range(n), key=scores.__getitem__))
        found = draws[chosen[-1]]
        np.testing.assert_array_equal(best.episodes.tokens[row], found.episodes.tokens[row])
        np.testing.assert_allclose(best.log_probs[row], found.log_probs[row], atol=1e-5)
    assert set(chosen) == set(range(n)) and bool(full) == bool(stop_at)
    np.testing.assert_array_equal(best.taken, sum(draw.taken for draw in draws))
