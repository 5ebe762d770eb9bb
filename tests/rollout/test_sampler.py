"""Cached sampling with deletions against uncached scoring."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.reductions import legal_logits
from sequencematch.core.trajectory import build_trajectory
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from sequencematch.rollout import decoding, sampler
from tests import oracles

PAD, BOS, EOS, BKSPC, POP_TWO, RESET = range(6)
LETTERS = range(6, 12)
EDITS = {BKSPC: 1, POP_TWO: 2, RESET: 99}  # no text here is as long
MDP = mdp.make(12, eos=EOS, pad=PAD, never=[BOS], edits=EDITS | {RESET: mdp.EVERYTHING})
ROWS, WIDTH, ACTIONS = 24, 5, 14


def offset(head, by):
    """The head with a constant added to its logits, and what it reads from the state doubled."""
    changed = nnx.Linear(*head.kernel.shape, rngs=nnx.Rngs(0))
    changed.kernel[...], changed.bias[...] = 2 * head.kernel[...], by
    return changed


@pytest.fixture(scope="module")
def model(sizes):
    """A network that likes edits everywhere, `<eos>` somewhat, and what is illegal most."""
    model = Transformer(TransformerConfig(**sizes), nnx.Rngs(3))
    liked = np.zeros(12, np.float32)
    liked[[BKSPC, POP_TWO, RESET, EOS, PAD, BOS]] = [1.5, 0.8, 0.5, 0.2, 9.0, 9.0]
    model.head = offset(model.head, liked)
    return model


@pytest.fixture(scope="module")
def prompts():
    """(tokens, start): right padded, of 1 to 5 tokens."""
    rng = np.random.default_rng(0)
    start = np.arange(ROWS, dtype=np.int32) % WIDTH
    tokens = rng.choice(LETTERS, size=(ROWS, WIDTH)).astype(np.int32)
    tokens[:, 0] = BOS
    return np.where(np.arange(WIDTH) <= start[:, None], tokens, PAD), start


@partial(nnx.jit, static_argnames=("actions", "choose"))
def sample(model, prompts, start, key, *, actions=ACTIONS, choose=None):
    choose = choose or decoding.with_temperature(1.0)
    return sampler.sample(model, MDP, prompts, start, key, max_actions=actions, choose=choose)


@nnx.jit
def read(model, episodes):
    """Logits [B, T, V] at the state of each time, from one masked pass: no cache."""
    t = jax.vmap(partial(build_trajectory, MDP))(episodes)
    hidden = model(t.tokens, t.positions, t.visible_until)
    return model.logits(jnp.take_along_axis(hidden, t.state[..., None], axis=1))


def score(model, episodes):
    """The same, -inf where an id is no action."""
    return legal_logits(read(model, episodes), MDP.legal)


def numpy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.fixture(scope="module")
def sampled(model, prompts):
    return numpy(sample(model, *prompts, jax.random.key(0)))


@pytest.fixture(scope="module")
def greedy(model, prompts):
    return numpy(sample(model, *prompts, jax.random.key(0), choose=decoding.greedy))


def rows(episodes):
    """(prompt, executed actions) of each row."""
    for tokens, start, end in zip(episodes.tokens, episodes.start, episodes.end, strict=True):
        yield tokens[: start + 1].tolist(), tokens[start + 1 : end + 1].tolist()


def decisions(episodes):
    time = np.arange(episodes.tokens.shape[1])
    return (episodes.start[:, None] <= time) & (time < episodes.end[:, None])


def finished(episodes):
    return np.array([EOS in actions for _, actions in rows(episodes)])


def test_the_samples_have_everything(sampled):
    """Many deletions, some at the prompt, rows that ended and rows that were cut."""
    episodes, _ = sampled
    used, at_prompt, longest = Counter(), 0, 0
    for prompt, actions in rows(episodes):
        states = oracles.texts(prompt, actions, EDITS)
        for text, action in zip(states, actions, strict=False):
            used[action] += 1
            at_prompt += action in EDITS and len(text) == len(prompt)
            longest = max(longest, (action == RESET) * (len(text) - len(prompt)))
    assert min(used[edit] for edit in EDITS) > 15 and at_prompt > 10 and longest > 2
    assert sum(used[token] for token in LETTERS) > 50
    assert 3 < finished(episodes).sum() < ROWS - 3


# The law.


@pytest.mark.parametrize("which", ["sampled", "greedy"])
def test_cached_log_probabilities_are_those_of_the_trajectory_pass(model, request, which):
    episodes, log_probs = request.getfixturevalue(which)
    log_pi = jax.nn.log_softmax(score(model, episodes))
    scored = np.take_along_axis(np.asarray(log_pi), episodes.labels[..., None], axis=-1)[..., 0]
    taken = decisions(episodes)
    np.testing.assert_allclose(log_probs[taken], scored[taken], atol=1e-4)
    assert (log_probs[~taken] == 0).all()
    # Nothing here is certain, so that agreement says something.
    assert np.ptp(scored[taken]) > 1


def test_greedy_takes_the_likeliest_action(model, greedy):
    episodes, _ = greedy
    logits = np.asarray(score(model, episodes))
    taken = decisions(episodes)
    chosen = np.take_along_axis(logits, episodes.labels[..., None], axis=-1)[..., 0]
    assert (chosen[taken] >= logits.max(-1)[taken] - 1e-4).all()
    two, best = np.sort(logits, axis=-1)[..., -2:].transpose(2, 0, 1)
    clear = taken & (best - two > 1e-3)
    assert clear.sum() > 0.9 * taken.sum()
    assert (episodes.labels == logits.argmax(-1))[clear].all()


# Episodes as they are laid out.


def test_an_episode_is_prompt_then_actions_then_padding(sampled, prompts):
    episodes, log_probs = sampled
    tokens, start = prompts
    slot = np.arange(WIDTH + ACTIONS)
    assert episodes.tokens.shape == log_probs.shape == (ROWS, WIDTH + ACTIONS)
    np.testing.assert_array_equal(episodes.start, start)
    for row, (prompt, actions) in enumerate(rows(episodes)):
        assert prompt == tokens[row, : start[row] + 1].tolist()
        assert EOS not in actions[:-1]
        assert len(actions) == ACTIONS or actions[-1] == EOS
    assert (episodes.tokens[slot > episodes.end[:, None]] == PAD).all()
    taken = decisions(episodes)
    executed = np.roll(episodes.tokens, -1, axis=1)
    np.testing.assert_array_equal(episodes.labels[taken], executed[taken])
    assert MDP.legal[episodes.labels].all()
    assert not episodes.imitate.any()
    trajectories = jax.vmap(partial(build_trajectory, MDP))(jax.tree.map(jnp.asarray, episodes))
    np.testing.assert_array_equal(trajectories.finished, finished(episodes))


def test_an_illegal_action_is_never_taken(model, sampled, greedy):
    """Though the network likes them best."""
    for episodes, _ in (sampled, greedy):
        likeliest = np.asarray(read(model, episodes)).argmax(-1)
        assert np.isin(likeliest[decisions(episodes)], [PAD, BOS]).mean() > 0.9
        assert MDP.legal[[a for _, actions in rows(episodes) for a in actions]].all()


def test_the_prompt_is_never_deleted(model, prompts):
    """Neither its depths nor what the cache holds there, decision by decision."""
    start = np.asarray(prompts[1])
    begin = nnx.jit(partial(sampler.begin, max_actions=ACTIONS))
    advance = nnx.jit(partial(sampler.advance, mdp=MDP, choose=decoding.with_temperature(1.0)))
    first = generation = begin(model, *map(jnp.asarray, prompts), jax.random.key(0))
    inside = np.arange(WIDTH + ACTIONS) <= start[:, None]
    empty = 0
    for _ in range(ACTIONS):
        generation = advance(model, generation=generation)
        assert (generation.depth >= start).all()
        empty += (np.asarray(generation.depth) == start).sum()
        np.testing.assert_array_equal(generation.hidden[inside], first.hidden[inside])
        for now, then in zip(generation.cache, first.cache, strict=True):
            np.testing.assert_array_equal(now.k[inside], then.k[inside])
            np.testing.assert_array_equal(now.v[inside], then.v[inside])
    assert empty > ROWS
    # What was on top at the end is what the stack machine has there.
    for row, (prompt, actions) in enumerate(rows(numpy(sampler._episodes(MDP, generation)))):
        assert generation.depth[row] == len(oracles.texts(prompt, actions, EDITS)[-1]) - 1


# Chance.


def test_a_row_is_independent_of_the_others(model, prompts, sampled):
    """Other prompts in the other rows, and another width of padding, change nothing."""
    tokens, start = (x.copy() for x in prompts)
    mine = np.arange(ROWS) % 3 == 1
    tokens[~mine], start[~mine] = np.roll(tokens[~mine], 1, axis=0), np.roll(start[~mine], 1)
    others, log_probs = numpy(sample(model, tokens, start, jax.random.key(0)))
    np.testing.assert_array_equal(others.tokens[mine], sampled[0].tokens[mine])
    np.testing.assert_allclose(log_probs[mine], sampled[1][mine], atol=1e-5)
    assert (others.tokens[~mine] != sampled[0].tokens[~mine]).any()
    wide, _ = numpy(
        sample(model, np.pad(prompts[0], [(0, 0), (0, 2)]), prompts[1], jax.random.key(0))
    )
    np.testing.assert_array_equal(wide.tokens[:, :-2], sampled[0].tokens)
    np.testing.assert_array_equal(wide.end, sampled[0].end)


def test_samples_are_a_function_of_the_key(model, prompts, sampled):
    again, _ = numpy(sample(model, *prompts, jax.random.key(0)))
    other, _ = numpy(sample(model, *prompts, jax.random.key(1)))
    np.testing.assert_array_equal(again.tokens, sampled[0].tokens)
    assert (other.tokens != again.tokens).any()


def test_rows_and_decisions_draw_apart(model, prompts):
    """The same prompt in every row: rows differ, and so do the decisions in a row."""
    tokens, start = (np.repeat(x[4:5], ROWS, axis=0) for x in prompts)
    episodes, _ = numpy(sample(model, tokens, start, jax.random.key(2)))
    assert len({tuple(actions) for _, actions in rows(episodes)}) > ROWS // 2
    assert len({actions[0] for _, actions in rows(episodes)}) > 2


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_actions_follow_the_softmax(model, temperature):
    """And the log-probabilities are the policy's own at any temperature."""
    count = 3000
    prompt = np.tile(np.array([BOS, 7, 9], np.int32), (count, 1))
    start = np.full(count, 2, np.int32)
    choose = decoding.with_temperature(temperature)
    episodes, log_probs = numpy(
        sample(model, prompt, start, jax.random.key(3), actions=1, choose=choose)
    )
    logits = np.asarray(score(model, jax.tree.map(lambda x: x[:1], episodes)))[0, 2]
    log_pi = np.asarray(jax.nn.log_softmax(logits), np.float64)
    p = np.asarray(jax.nn.softmax(logits / temperature), np.float64)
    counts = np.bincount(episodes.labels[:, 2], minlength=12)
    assert (abs(counts - count * p) <= 5 * np.sqrt(count * p * (1 - p))).all()
    np.testing.assert_allclose(log_probs[:, 2], log_pi[episodes.labels[:, 2]], atol=1e-4)


@pytest.mark.parametrize("bias", [-1.5, 0.0, 2.0])
def test_a_bias_moves_the_edits_as_the_softmax_says(model, bias):
    """And no other action against another; the log-probabilities stay the policy's own."""
    count = 3000
    prompt = np.tile(np.array([BOS, 7, 9], np.int32), (count, 1))
    start = np.full(count, 2, np.int32)
    choose = decoding.with_edit_bias(decoding.with_temperature(1.0), MDP, bias)
    episodes, log_probs = numpy(
        sample(model, prompt, start, jax.random.key(4), actions=1, choose=choose)
    )
    logits = np.asarray(score(model, jax.tree.map(lambda x: x[:1], episodes)))[0, 2]
    log_pi = np.asarray(jax.nn.log_softmax(logits), np.float64)
    changed = np.exp(log_pi + [bias * (action in EDITS) for action in range(12)])
    changed /= changed.sum()
    counts = np.bincount(episodes.labels[:, 2], minlength=12)
    assert (abs(counts - count * changed) <= 5 * np.sqrt(count * changed * (1 - changed))).all()
    np.testing.assert_allclose(log_probs[:, 2], log_pi[episodes.labels[:, 2]], atol=1e-4)


def test_a_large_bias_makes_every_action_an_edit_and_its_opposite_none(model, prompts):
    """Greedily, too; and what is no action stays none."""
    for bias, allowed in ((50.0, set(EDITS)), (-50.0, {EOS, *LETTERS})):
        for choose in (decoding.greedy, decoding.with_temperature(1.0)):
            choose = decoding.with_edit_bias(choose, MDP, bias)
            episodes, _ = numpy(sample(model, *prompts, jax.random.key(0), choose=choose))
            assert {action for _, actions in rows(episodes) for action in actions} <= allowed


def test_no_bias_changes_nothing(model, prompts, sampled):
    choose = decoding.with_edit_bias(decoding.with_temperature(1.0), MDP, 0.0)
    again = numpy(sample(model, *prompts, jax.random.key(0), choose=choose))
    np.testing.assert_array_equal(again[0].tokens, sampled[0].tokens)
    np.testing.assert_array_equal(again[1], sampled[1])
