"""Behavioural cloning and unlikelihood against loops, and their limits."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core import likelihood, mdp, reductions
from sequencematch.core.likelihood import (
    behavioural_cloning,
    first_occurrences,
    log_unlikelihood,
)
from sequencematch.core.trajectory import build_trajectory
from sequencematch.core.types import Visibility
from sequencematch.data.noise import add_noise, fix_by_popping
from tests import oracles
from tests.core.batches import (
    BKSPC,
    BOS,
    CASES,
    EDITS,
    EOS,
    EXPERT,
    LETTERS,
    MDP,
    PAD,
    POP_TWO,
    SLOTS,
    SOME,
    SOME_CASES,
    bc,
    values_of,
)

# Behavioural cloning.


def test_behavioural_cloning_equals_the_loop():
    for batch in (EXPERT, SOME):
        expected = oracles.behavioural_cloning(list(batch.cases))
        np.testing.assert_allclose(bc(*batch.arrays), expected, rtol=1e-5)


def test_micro_batches_of_cloning_add_up():
    counts = EXPERT.trajectories.imitate.sum(axis=1)
    halves = [counts[rows].sum() * bc(*EXPERT.rows(rows)) for rows in (slice(0, 4), slice(4, None))]
    np.testing.assert_allclose(sum(halves) / counts.sum(), bc(*EXPERT.arrays), rtol=1e-5)


def test_gradient_of_cloning_is_finite_at_extreme_logits():
    extreme = np.sign(EXPERT.logits) * np.float32(1e4)
    for logits in (extreme, np.where(MDP.legal, extreme, -np.inf).astype(np.float32)):
        assert np.isfinite(np.asarray(jax.grad(bc)(logits, EXPERT.trajectories))).all()


def test_cloning_clean_data_without_edits_is_maximum_likelihood(transformer):
    """At eta = 0 and without edits: the loss, and the gradient of every parameter."""
    rng = np.random.default_rng(5)
    legal = np.ones(12, bool)
    legal[[PAD, BOS, BKSPC, POP_TWO]] = False
    process = mdp.make(12, eos=EOS, pad=PAD, never=[BOS, BKSPC, POP_TWO], edits={})
    tokens, targets, counts, episodes = *np.zeros((3, 5, 10), np.int32), []
    for row in range(5):
        prompt = [BOS, *rng.choice(LETTERS, size=row % 3)]
        clean = [*map(int, rng.choice(LETTERS, size=rng.integers(1, 6))), EOS]
        executed, labels, imitate = add_noise(
            rng,
            clean,
            eta=0.0,
            run=0.5,
            wrong=list(LETTERS),
            fix=fix_by_popping({BKSPC: 1}),
            step="clean",
            limit=10,
        )
        assert all(imitate)
        episodes.append(oracles.lay_out_episode(prompt, executed, labels, slots=10, filler=EOS))
        text = [*prompt, *clean]
        tokens[row, : len(text)] = text
        targets[row, : len(text) - 1] = text[1:]
        counts[row, len(prompt) - 1 : len(text) - 1] = 1
    episodes = oracles.stack_episodes(episodes)

    def cloning_loss(model):
        t = jax.vmap(partial(build_trajectory, process))(episodes)
        hidden = model.hidden(t.tokens, t.visibility)
        states = jnp.take_along_axis(hidden, t.state[..., None], axis=1)
        read = jax.vmap(partial(reductions.action_values, legal=process.legal))
        return behavioural_cloning(read(model.logits(states), t.actions), t).value

    def likelihood(model):
        """Next-token cross-entropy of a plain causal pass, on completions only."""
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        everything = Visibility(positions, positions, jnp.full_like(positions, tokens.shape[1]))
        logits = model.logits(model.hidden(jnp.asarray(tokens), everything))
        log_pi = jax.nn.log_softmax(jnp.where(legal, logits, -jnp.inf))
        picked = jnp.take_along_axis(log_pi, jnp.asarray(targets)[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(counts == 1, picked, 0)) / counts.sum()

    (a, grads), (b, expected) = (
        nnx.jit(nnx.value_and_grad(f))(transformer) for f in (cloning_loss, likelihood)
    )
    np.testing.assert_allclose(a, b, rtol=1e-6)
    pairs = list(zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True))
    assert len(pairs) > 10
    for x, y in pairs:
        np.testing.assert_allclose(x, y, atol=1e-6)


# Unlikelihood.


def texts_seen(batch):
    """bool[B, T, T], the slots that make up the text at each time; and the texts themselves."""
    seen, states = np.zeros((len(batch.strings), SLOTS, SLOTS), bool), []
    for row, (prompt, actions, _) in enumerate(batch.strings):
        replayed = oracles.replay(prompt, actions, EDITS)
        for n, state in enumerate(replayed):
            seen[row, len(prompt) - 1 + n, [slot for slot, _ in state]] = True
        states.append([[token for _, token in state] for state in replayed])
    return seen, states


@jax.jit
def unlikelihood(logits, seen, trajectories):
    states = jnp.take_along_axis(logits, trajectories.state[..., None], axis=1)
    find = jax.vmap(partial(log_unlikelihood, legal=MDP.legal))
    candidates = seen & jax.vmap(partial(first_occurrences, MDP))(trajectories)[:, None]
    unlikely = find(states, trajectories.actions, candidates, trajectories.tokens)
    return likelihood.unlikelihood(values_of(logits, trajectories), unlikely, trajectories).value


def test_first_occurrences_are_each_token_of_each_text_once():
    for batch in (EXPERT, SOME):
        trajectories = jax.tree.map(jnp.asarray, batch.trajectories)
        first = np.asarray(jax.vmap(partial(first_occurrences, MDP))(trajectories))
        for row, (prompt, actions, _) in enumerate(batch.strings):
            for text in oracles.replay(prompt, actions, EDITS):
                once = [token for slot, token in text if first[row, slot]]
                assert sorted(once) == sorted({token for _, token in text})


def test_unlikelihood_equals_the_loop():
    for batch, cases in ((EXPERT, CASES[0]), (SOME, SOME_CASES)):
        seen, states = texts_seen(batch)
        expected = oracles.unlikelihood(cases, states)
        assert expected > oracles.behavioural_cloning(cases) + 0.1
        trajectories = jax.tree.map(jnp.asarray, batch.trajectories)
        actual = unlikelihood(batch.logits, seen, trajectories)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_unlikelihood_without_candidates_equals_cloning():
    """A text of `<bos>`, which is not an action, and of its label has no candidates."""
    trajectories = jax.tree.map(jnp.asarray, EXPERT.trajectories)
    nothing = np.zeros((8, SLOTS, SLOTS), bool)
    nothing[..., 0] = True
    np.testing.assert_allclose(
        unlikelihood(EXPERT.logits, nothing, trajectories), bc(*EXPERT.arrays), rtol=1e-6
    )
    seen = np.ones((8, SLOTS, SLOTS), bool)
    same = trajectories._replace(
        tokens=jnp.full((8, SLOTS), 5).at[:, 0].set(BOS), actions=jnp.full((8, SLOTS), 5)
    )
    np.testing.assert_allclose(
        unlikelihood(EXPERT.logits, seen, same), bc(EXPERT.logits, same), rtol=1e-6
    )


@pytest.mark.parametrize("gap", [0.0, 12.0, 30.0])
def test_unlikelihood_of_a_token_that_is_all_but_certain(gap):
    """log(1 - p) = log n - log(n + e^gap) over n others alike, with gradient -p in its logit."""
    legal, n = np.ones(9, bool), 8
    logits = jnp.zeros((1, 9)).at[0, 4].set(gap)

    def penalty(logits):
        return log_unlikelihood(logits, jnp.array([5]), jnp.array([[True]]), jnp.array([4]), legal)[
            0
        ]

    value, slope = jax.value_and_grad(penalty)(logits)
    np.testing.assert_allclose(value, math.log(n) - math.log(n + math.exp(gap)), rtol=1e-5)
    np.testing.assert_allclose(slope[0, 4], -math.exp(gap) / (n + math.exp(gap)), rtol=1e-5)


def test_unlikelihood_is_finite_at_extreme_logits():
    seen, _ = texts_seen(EXPERT)
    trajectories = jax.tree.map(jnp.asarray, EXPERT.trajectories)
    extreme = np.sign(EXPERT.logits) * np.float32(1e4)
    for logits in (extreme, np.where(MDP.legal, extreme, -np.inf).astype(np.float32)):
        value, slope = jax.value_and_grad(unlikelihood)(logits, seen, trajectories)
        assert np.isfinite(value) and np.isfinite(np.asarray(slope)).all()
