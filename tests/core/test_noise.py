"""Noise on the expert's texts: what it does, how often, and what is learnt from it."""

from collections import Counter
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from sequencematch.core import hard_negatives, mdp
from sequencematch.core.hard_negatives import draw_wrong_token, replace_wrong_tokens
from sequencematch.core.trajectory import build_trajectory
from sequencematch.data.noise import NOISE_STEPS, add_noise, fix_by_popping, fix_by_reset
from tests import oracles

PAD, BOS, EOS, BKSPC = range(4)
LETTERS = range(4, 10)
POP_TWO, RESET, POP_THREE = 10, 11, 12
EDITS = {BKSPC: 1, POP_TWO: 2, POP_THREE: 3, RESET: mdp.EVERYTHING}
V, SLOTS = 13, 40
MDP = mdp.make(V, eos=EOS, pad=PAD, never=[BOS], edits=EDITS)
WRONG = [5, 6, 9]


def clean_text(rng):
    return [*map(int, rng.choice(LETTERS, size=rng.integers(0, 6))), EOS]


FEW_EDITS = {BKSPC: 1, POP_TWO: 2}
BACKSPACING, RESETTING = fix_by_popping({BKSPC: 1}), fix_by_reset(RESET)


def noised(
    rng, clean, eta=0.4, run=0.4, wrong=WRONG, mending=BACKSPACING, step="clean", limit=10**6
):
    return add_noise(
        rng, clean, eta=eta, run=run, wrong=wrong, mending=mending, step=step, limit=limit
    )


def chi_square(counts, probabilities):
    """Whether counts are draws from these probabilities: p > 1e-3, at a fixed seed."""
    counts, probabilities = np.asarray(counts), np.asarray(probabilities)
    assert counts.shape == probabilities.shape
    expected = counts.sum() * probabilities
    assert expected.min() > 5, "too few draws to tell"
    np.testing.assert_allclose(probabilities.sum(), 1)
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


def geometric(draws, p, kinds):
    """Whether draws are geometric, P(k) = (1-p) p^k; the last of `kinds` is that or more."""
    counts = np.bincount(np.minimum(draws, kinds - 1), minlength=kinds)
    k = np.arange(kinds - 1)
    chi_square(counts, [*(1 - p) * p**k, p ** (kinds - 1)])


@pytest.fixture(scope="module")
def examples():
    """(clean, executed, labels) of many noised texts."""
    rng = np.random.default_rng(0)
    cleans = [clean_text(rng) for _ in range(300)]
    found = [(clean, noised(rng, clean)) for clean in cleans]
    assert all(all(happened.imitate) for _, happened in found)
    return [(clean, happened.executed, happened.labels) for clean, happened in found]


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
        assert noised(rng, clean, eta=0.0, run=0.5) == (clean, clean, [True] * len(clean))


def test_without_runs_a_wrong_token_is_mended_at_once():
    rng = np.random.default_rng(2)
    for _ in range(100):
        clean = clean_text(rng)
        executed, labels, _ = noised(rng, clean, run=0.0)
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


@pytest.mark.parametrize(("eta", "run"), [(0.3, 0.0), (0.05, 0.5), (0.6, 0.2)])
def test_frequencies(eta, run):
    """Events before a push are geometric in eta, wrong tokens beyond an event's first in run."""
    rng, pushes = np.random.default_rng(3), 8000
    clean = [*map(int, rng.choice(LETTERS, size=pushes - 1)), EOS]
    before = events(noised(rng, clean, eta=eta, run=run).executed)
    assert len(before) == pushes
    geometric([len(e) for e in before], eta, kinds=3)
    lengths = np.array([length for e in before for length in e])
    if run == 0:
        assert (lengths == 1).all()
    else:
        geometric(lengths - 1, run, kinds=4)
        # And the two are independent: each of a push's events draws its own length.
        first = [e[0] - 1 for e in before if len(e) > 1]
        geometric(first, run, kinds=2)


def test_wrong_tokens_are_uniform():
    """The first of a run over all but the right token, any further over all of them."""
    rng = np.random.default_rng(4)
    executed, labels, _ = noised(rng, [5] * 4000, eta=0.5, run=0.5)
    first = [a for a, label in zip(executed, labels, strict=True) if a != label == 5]
    further = [a for a, label in zip(executed, labels, strict=True) if a != label == BKSPC]
    for drawn, allowed in ((first, [6, 9]), (further, WRONG)):
        counts = np.bincount(drawn, minlength=V)
        assert counts[allowed].sum() == len(drawn)
        chi_square(counts[allowed], np.full(len(allowed), 1 / len(allowed)))


def test_every_short_history_has_its_exact_probability():
    """Of a text of one push: its first three actions against the product of all chances."""
    rng, eta, run, draws = np.random.default_rng(11), 0.4, 0.3, 2000
    found = Counter(
        tuple(noised(rng, [5], eta=eta, run=run, wrong=[5, 6], limit=3).executed[:3])
        for _ in range(draws)
    )
    # 6 is the one wrong token that can come first; then 5 or 6, each with run/2.
    exact = {(5,): 1 - eta}
    one = eta * (1 - run)
    exact |= {(6, BKSPC, 5): one * (1 - eta), (6, BKSPC, 6): one * eta}
    for second in (5, 6):
        two = eta * run / 2
        exact[6, second, BKSPC] = two * (1 - run)
        exact |= {(6, second, third): two * run / 2 for third in (5, 6)}
    assert found.keys() == exact.keys()
    chi_square([found[history] for history in exact], list(exact.values()))


# How the expert mends.


@pytest.mark.parametrize("pops", [{BKSPC: 1}, FEW_EDITS, {BKSPC: 1, POP_TWO: 3, POP_THREE: 4}])
def test_mending_pops_with_as_few_edits_as_there_can_be(pops):
    """Also where taking the largest first is not best: 6 = 3 + 3 in two edits, 4 + 1 + 1 in three."""
    mending = fix_by_popping(pops)
    assert not mending.restarts
    for n in range(1, 9):
        edits = mending.edits(n)
        assert sum(pops[edit] for edit in edits) == n
        fewest = next(
            count
            for count in range(1, n + 1)
            if any(sum(way) == n for way in product(pops.values(), repeat=count))
        )
        assert len(edits) == fewest
        # What is left is mended as it would be on its own: so labels do not depend on the past.
        assert edits[1:] == mending.edits(n - pops[edits[0]])


@pytest.mark.parametrize(
    "mending",
    [fix_by_popping(FEW_EDITS), fix_by_popping(FEW_EDITS | {POP_THREE: 3}), RESETTING],
    ids=["pop 2", "pop 3", "reset"],
)
def test_every_mending_ends_clean(mending):
    """Replayed on the stack machine, with labels that are the expert's at every step."""
    rng, edits_taken = np.random.default_rng(12), Counter()
    for _ in range(150):
        clean = clean_text(rng)
        executed, labels, imitate = noised(rng, clean, eta=0.3, mending=mending)
        assert len(executed) == len(labels) == len(imitate) and all(imitate)
        states = oracles.texts([BOS], executed, EDITS)
        assert states[-1] == [BOS, *clean]
        for (_, *text), action, label in zip(states, executed, labels, strict=False):
            right = next(
                (n for n in range(len(text)) if text[n : n + 1] != clean[n : n + 1]), len(text)
            )
            wrong = len(text) - right
            assert label == (mending.edits(wrong)[0] if wrong else clean[right])
            assert action == label or action in WRONG
        edits_taken.update(set(executed) & set(EDITS))
    assert len(edits_taken) > (0 if mending.restarts else 1)


def test_a_reset_restarts_the_text():
    """A run of wrong tokens, one RESET, and everything again."""
    rng = np.random.default_rng(13)
    clean, seen = [4, 5, 6, EOS], 0
    for _ in range(200):
        executed, labels, _ = noised(rng, clean, eta=0.15, run=0.5, mending=RESETTING)
        *attempts, last = " ".join(map(str, executed)).split(f" {RESET}")
        assert last.split() == [str(a) for a in clean]
        seen += len(attempts)
        for attempt in attempts:
            tokens = [int(a) for a in attempt.split()]
            right = next(n for n, a in enumerate(tokens) if a != clean[n])
            assert set(tokens[right:]) <= set(WRONG)
        states = oracles.texts([BOS], executed, EDITS)
        for n in (n for n, a in enumerate(executed) if a == RESET):
            assert states[n + 1] == [BOS] and labels[n] == RESET
    assert seen > 100


# What a noise step teaches, and when it is enough.


def test_what_a_noise_step_teaches():
    """The same is executed; label and whether it counts are the choice."""
    clean = [4, 5, 6, 7] * 20 + [EOS]
    by = {step: noised(np.random.default_rng(14), clean, step=step) for step in NOISE_STEPS}
    assert list(by) == ["clean", "imitate", "skip"]
    executed = by["clean"].executed
    assert executed == by["imitate"].executed == by["skip"].executed
    assert by["clean"].labels == by["skip"].labels
    at_noise = [a != label for a, label in zip(executed, by["clean"].labels, strict=True)]
    assert 20 < sum(at_noise) < len(at_noise) / 2
    assert all(by["clean"].imitate) and all(by["imitate"].imitate)
    assert by["imitate"].labels == executed
    assert by["skip"].imitate == [not noisy for noisy in at_noise]


@pytest.mark.parametrize("mending", [BACKSPACING, RESETTING], ids=["backspace", "reset"])
@pytest.mark.parametrize("run", [0.0, 0.5, 1 - 1e-12])
def test_nothing_begins_beyond_the_limit(mending, run):
    """Though a text at eta = .99, or a wrong run, may never end; what was begun is mended."""
    clean = [4, 5, 6, 7, EOS]
    for seed in range(20):
        happened = noised(
            np.random.default_rng(seed), clean, eta=0.99, run=run, mending=mending, limit=50
        )
        longer = noised(
            np.random.default_rng(seed), clean, eta=0.99, run=run, mending=mending, limit=90
        )
        length = len(happened.executed)
        for short, long in zip(happened, longer, strict=True):
            assert len(short) == length and long[:50] == short[:50]
        # The last event began before the limit.
        *_, last = oracles.texts([BOS], happened.executed, EDITS)
        assert last[1:] == clean[: len(last) - 1]
        began = max(n for n in range(length) if (happened.labels[n] in clean))
        assert began < 50 <= length <= 2 * 50
    assert noised(np.random.default_rng(0), clean, limit=0) == ([], [], [])


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
    return jax.vmap(partial(build_trajectory, MDP))(episodes)


@jax.jit
def wrong_steps(trajectories):
    return jax.vmap(partial(hard_negatives.wrong_steps, MDP))(trajectories)


@jax.jit
def redraw(trajectories, z):
    return jax.vmap(partial(replace_wrong_tokens, MDP))(trajectories, z)


@jax.jit
def draw(logits, right, keys):
    return jax.vmap(partial(draw_wrong_token, MDP), (None, None, 0))(logits, right, keys)


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
    logits[[PAD, BOS, BKSPC, POP_TWO, RESET, POP_THREE, EOS, 6]] = 50.0
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
    chi_square(counts[allowed], p)


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
