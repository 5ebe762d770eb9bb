"""Noise on the expert's texts: what it does, how often, and what is learnt from it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core import mdp, noise
from tests import oracles

PAD, BOS, EOS, BKSPC = range(4)
LETTERS = range(4, 10)
EDITS = {BKSPC: 1}
V, SLOTS = 10, 40
MDP = mdp.make(V, eos=EOS, pad=PAD, never=[BOS], edits=EDITS)
WRONG = [5, 6, 9]


def clean_text(rng):
    return [*map(int, rng.choice(LETTERS, size=rng.integers(0, 6))), EOS]


def noised(rng, clean, eta=0.4, run=0.4, wrong=WRONG):
    return noise.noised(rng, clean, eta=eta, run=run, wrong=wrong, bkspc=BKSPC)


@pytest.fixture(scope="module")
def examples():
    """(clean, executed, labels) of many noised texts."""
    rng = np.random.default_rng(0)
    cleans = [clean_text(rng) for _ in range(300)]
    return [(clean, *noised(rng, clean)) for clean in cleans]


def test_every_noised_text_ends_clean(examples):
    for clean, executed, _ in examples:
        assert oracles.texts([BOS], executed, EDITS)[-1] == [BOS, *clean]
    # There was something to take back, `<eos>` being retried too.
    assert sum(len(executed) > len(clean) for clean, executed, _ in examples) > 100
    assert any(len(executed) > 1 for clean, executed, _ in examples if clean == [EOS])


def test_labels_are_what_the_expert_would_do(examples):
    """On a beginning of the clean text its next token; on anything else the edit that mends."""
    for clean, executed, labels in examples:
        states = oracles.texts([], executed, EDITS)[:-1]
        expected = [clean[len(text)] if text == clean[: len(text)] else BKSPC for text in states]
        assert labels == expected


def test_what_differs_from_the_label_was_the_environments(examples):
    """It comes from `wrong`, and the first of a run is not the right token."""
    runs = 0
    for clean, executed, labels in examples:
        states = oracles.texts([], executed, EDITS)
        for text, action, label in zip(states, executed, labels, strict=False):
            if action == label:
                continue
            assert action in WRONG
            if text == clean[: len(text)]:
                assert label == clean[len(text)] != action
            else:
                assert label == BKSPC
                runs += 1
    assert runs > 50


def test_without_noise_nothing_is_changed():
    rng = np.random.default_rng(1)
    for _ in range(20):
        clean = clean_text(rng)
        assert noised(rng, clean, eta=0.0, run=0.5) == (clean, clean)


def test_without_runs_a_wrong_token_is_mended_at_once():
    rng = np.random.default_rng(2)
    for _ in range(100):
        clean = clean_text(rng)
        executed, labels = noised(rng, clean, run=0.0)
        wrong = [t for t in range(len(executed)) if executed[t] != labels[t]]
        assert all(executed[t + 1] == labels[t + 1] == BKSPC for t in wrong)
        assert executed.count(BKSPC) == len(wrong)


def events(executed):
    """Lengths of the runs of wrong tokens before each push of the clean text, `<eos>` last."""
    before, length, taken = [[]], 0, 0
    for action in reversed(executed):
        # Backwards, a mend announces as many wrong tokens as there are edits in the run.
        if action == BKSPC:
            length += 1
        elif taken < length:
            taken += 1
            if taken == length:
                before[-1].append(length)
                length = taken = 0
        else:
            before.append([])
    return before[1:]


def geometric(counts, p, trials):
    """Whether counts[k] of `trials` draws are (1-p) p^k, each within five standard deviations."""
    for k, count in enumerate(counts):
        q = (1 - p) * p**k
        assert abs(count - trials * q) < 5 * np.sqrt(trials * q * (1 - q)) + 1, (k, count)


@pytest.mark.parametrize(("eta", "run"), [(0.3, 0.0), (0.05, 0.5), (0.6, 0.2)])
def test_frequencies(eta, run):
    """Events before a push are geometric in eta, wrong tokens beyond an event's first in run."""
    rng, pushes = np.random.default_rng(3), 8000
    clean = [*map(int, rng.choice(LETTERS, size=pushes - 1)), EOS]
    executed, _ = noised(rng, clean, eta=eta, run=run)
    before = events(executed)
    assert len(before) == pushes
    geometric(np.bincount([len(e) for e in before], minlength=6), eta, pushes)
    lengths = [length for e in before for length in e]
    geometric(np.bincount(np.array(lengths) - 1, minlength=4), run, len(lengths))


def test_wrong_tokens_are_uniform():
    rng = np.random.default_rng(4)
    executed, labels = noised(rng, [5] * 4000, eta=0.5, run=0.5)
    first = [a for a, label in zip(executed, labels, strict=True) if a != label == 5]
    further = [a for a, label in zip(executed, labels, strict=True) if a != label == BKSPC]
    for drawn, allowed in ((first, [6, 9]), (further, WRONG)):
        counts, q = np.bincount(drawn, minlength=V), 1 / len(allowed)
        assert counts[allowed].sum() == len(drawn)
        spread = 5 * np.sqrt(len(drawn) * q * (1 - q))
        assert (abs(counts[allowed] - len(drawn) * q) < spread).all()


def test_a_function_of_the_generator_alone():
    clean = [4, 5, 6, 7, EOS]
    first, second, other = (noised(np.random.default_rng(s), clean * 9) for s in (7, 7, 8))
    assert first == second != other


# Hard negatives: wrong tokens drawn from the policy.


@pytest.fixture(scope="module")
def episodes(examples):
    """Noised texts that fit, as a batch with room to spare."""
    laid = [
        oracles.laid_out([BOS, 7], executed, labels, slots=SLOTS, filler=EOS)
        for _, executed, labels in examples
        if len(executed) < SLOTS - 4
    ]
    assert len(laid) > 200
    return oracles.stacked(laid)


@pytest.fixture(scope="module")
def trajectories(episodes):
    return build(episodes)


@jax.jit
def build(episodes):
    return jax.vmap(partial(mdp.trajectory, MDP))(episodes)


@jax.jit
def wrong_steps(trajectories):
    return jax.vmap(partial(noise.wrong_steps, MDP))(trajectories)


@jax.jit
def redraw(trajectories, z):
    return jax.vmap(partial(noise.redrawn, MDP))(trajectories, z)


@jax.jit
def draw(logits, right, keys):
    return jax.vmap(partial(noise.wrong_token, MDP), (None, None, 0))(logits, right, keys)


def drawn(logits, right, count=4000):
    keys = jax.random.split(jax.random.key(5), count)
    return np.asarray(draw(jnp.asarray(logits, jnp.float32), jnp.int32(right), keys))


def test_wrong_steps_are_where_the_environment_acted(episodes, trajectories):
    found = np.asarray(wrong_steps(trajectories))
    for row in range(len(found)):
        tokens, start, end = episodes.tokens[row], episodes.start[row], episodes.end[row]
        acted = [
            start <= t < end and tokens[t + 1] != episodes.labels[row, t] for t in range(SLOTS)
        ]
        assert found[row].tolist() == acted


def test_a_mistake_of_the_expert_in_taking_back_is_not_the_environments():
    """Only pushed ordinary tokens are redrawn: an executed edit or `<eos>` stays what it is."""
    episode = oracles.laid_out([BOS], [4, BKSPC, EOS], [4, 5, 5], slots=SLOTS, filler=EOS)
    assert not np.asarray(wrong_steps(build(oracles.stacked([episode])))).any()


def test_a_wrong_token_is_ordinary_and_not_the_right_one():
    """Also where the policy thinks of nothing but what it may not draw."""
    logits = np.zeros(V)
    logits[[PAD, BOS, EOS, BKSPC, 6]] = 50.0
    assert set(drawn(logits, 6)) == set(LETTERS) - {6}
    assert set(drawn(logits, EOS)) <= set(LETTERS)
    # Beyond the first wrong token the right action is the edit, and any ordinary token may follow.
    assert set(drawn(np.zeros(V), BKSPC)) == set(LETTERS)


def test_wrong_tokens_follow_the_policy():
    """P(z) = pi(z|s) over the ordinary tokens other than the right one, renormalised."""
    logits = np.random.default_rng(6).normal(size=V)
    right, count = 7, 20_000
    counts = np.bincount(drawn(logits, right, count), minlength=V)
    allowed = [z for z in LETTERS if z != right]
    p = np.exp(logits[allowed]) / np.exp(logits[allowed]).sum()
    assert counts.sum() == counts[allowed].sum()
    assert (abs(counts[allowed] - count * p) < 5 * np.sqrt(count * p * (1 - p))).all()


def test_a_certain_policy_is_believed():
    for z in (4, 9):
        logits = np.where(np.arange(V) == z, 100.0, 0.0)
        assert (drawn(logits, 6) == z).all()


def test_redrawn_changes_the_tokens_at_wrong_steps_and_nothing_else(trajectories):
    rng = np.random.default_rng(8)
    where = np.asarray(wrong_steps(trajectories))
    z = rng.choice(LETTERS, size=where.shape).astype(np.int32)
    redrawn = redraw(trajectories, z)
    expected = np.array(trajectories.tokens)
    row, time = np.nonzero(where)
    expected[row, time + 1] = z[row, time]
    np.testing.assert_array_equal(redrawn.tokens, expected)
    assert (expected != np.asarray(trajectories.tokens)).sum() > 100
    for name in set(trajectories._fields) - {"tokens"}:
        assert getattr(redrawn, name) is not None
        np.testing.assert_array_equal(getattr(redrawn, name), getattr(trajectories, name))


def test_redrawn_is_what_the_builder_makes_of_the_redrawn_tokens(episodes, trajectories):
    rng = np.random.default_rng(9)
    z = rng.choice(LETTERS, size=episodes.tokens.shape).astype(np.int32)
    redrawn = redraw(trajectories, z)
    tokens = np.where(np.arange(SLOTS) <= episodes.end[:, None], redrawn.tokens, EOS)
    rebuilt = build(episodes._replace(tokens=tokens))
    for name in rebuilt._fields:
        np.testing.assert_array_equal(getattr(redrawn, name), getattr(rebuilt, name), name)
