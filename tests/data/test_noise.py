"""Noise on the expert's texts: its laws, its frequencies, and what its steps teach."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from sequencematch.core import mdp
from sequencematch.data.noise import NOISE_STEPS, add_noise, fix_by_popping, fix_by_reset
from tests import oracles
from tests.goodness_of_fit import assert_counts_fit

PAD, BOS, EOS, BKSPC = range(4)
LETTERS = range(4, 10)
POP_TWO, RESET, POP_THREE = 10, 11, 12
EDITS = {BKSPC: 1, POP_TWO: 2, POP_THREE: 3, RESET: mdp.EVERYTHING}
V = 13
WRONG = [5, 6, 9]
FEW_EDITS = {BKSPC: 1, POP_TWO: 2}
BACKSPACING, RESETTING = fix_by_popping({BKSPC: 1}), fix_by_reset(RESET)


def clean_text(rng):
    return [*map(int, rng.choice(LETTERS, size=rng.integers(0, 6))), EOS]


def apply_noise(
    rng, clean, eta=0.4, run=0.4, wrong=WRONG, fix=BACKSPACING, step="clean", limit=10**6
):
    return add_noise(rng, clean, eta=eta, run=run, wrong=wrong, fix=fix, step=step, limit=limit)


def assert_geometric(draws, p, kinds):
    """Asserts that draws follow P(k) = (1-p) p^k; the last of `kinds` means k or more."""
    counts = np.bincount(np.minimum(draws, kinds - 1), minlength=kinds)
    k = np.arange(kinds - 1)
    assert_counts_fit(counts, [*(1 - p) * p**k, p ** (kinds - 1)])


@pytest.fixture(scope="module")
def noised_texts():
    """(clean, executed, labels) of 300 noised texts."""
    rng = np.random.default_rng(0)
    cleans = [clean_text(rng) for _ in range(300)]
    found = [(clean, apply_noise(rng, clean)) for clean in cleans]
    assert all(all(decisions.imitate) for _, decisions in found)
    return [(clean, decisions.executed, decisions.labels) for clean, decisions in found]


def test_every_noised_text_ends_clean(noised_texts):
    for clean, executed, _ in noised_texts:
        assert oracles.texts([BOS], executed, EDITS)[-1] == [BOS, *clean]
    # Many texts were noised, also before `<eos>` alone.
    assert sum(len(executed) > len(clean) for clean, executed, _ in noised_texts) > 100
    assert any(len(executed) > 1 for clean, executed, _ in noised_texts if clean == [EOS])


def test_labels_are_the_experts_actions(noised_texts):
    """On a prefix of the clean text the next token, on any other text the edit that fixes it."""
    for clean, executed, labels in noised_texts:
        states = oracles.texts([], executed, EDITS)[:-1]
        expected = [clean[len(text)] if text == clean[: len(text)] else BKSPC for text in states]
        assert labels == expected


def test_actions_other_than_the_label_are_wrong_tokens(noised_texts):
    """They come from `wrong`, and the first of a run is not the right token."""
    runs = 0
    for clean, executed, labels in noised_texts:
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


def test_eta_zero_changes_nothing():
    rng = np.random.default_rng(1)
    for _ in range(20):
        clean = clean_text(rng)
        assert apply_noise(rng, clean, eta=0.0, run=0.5) == (clean, clean, [True] * len(clean))


def test_run_zero_fixes_each_wrong_token_at_once():
    rng = np.random.default_rng(2)
    for _ in range(100):
        clean = clean_text(rng)
        executed, labels, _ = apply_noise(rng, clean, run=0.0)
        wrong = [t for t in range(len(executed)) if executed[t] != labels[t]]
        assert all(executed[t + 1] == labels[t + 1] == BKSPC for t in wrong)
        assert executed.count(BKSPC) == len(wrong)


def test_noise_is_a_function_of_the_generator():
    clean = [4, 5, 6, 7, EOS]
    first, second, other = (apply_noise(np.random.default_rng(s), clean * 9) for s in (7, 7, 8))
    assert first == second != other


# Frequencies.


def events(executed):
    """Before each push of the clean text: the lengths of its runs of wrong tokens, in reverse order."""
    before, length, popped = [[]], 0, 0
    for action in reversed(executed):
        # Read backwards, a run of n backspaces is followed by the n wrong tokens that they pop.
        if action == BKSPC:
            length += 1
        elif popped < length:
            popped += 1
            if popped == length:
                before[-1].append(length)
                length = popped = 0
        else:
            before.append([])
    return before[1:]


@pytest.mark.parametrize(("eta", "run"), [(0.3, 0.0), (0.05, 0.5), (0.6, 0.2)])
def test_numbers_of_events_and_wrong_tokens_are_geometric(eta, run):
    """Events per push are geometric in eta, further wrong tokens per event geometric in run."""
    rng, pushes = np.random.default_rng(3), 8000
    clean = [*map(int, rng.choice(LETTERS, size=pushes - 1)), EOS]
    before = events(apply_noise(rng, clean, eta=eta, run=run).executed)
    assert len(before) == pushes
    assert_geometric([len(e) for e in before], eta, kinds=3)
    lengths = np.array([length for e in before for length in e])
    if run == 0:
        assert (lengths == 1).all()
    else:
        assert_geometric(lengths - 1, run, kinds=4)
        # The two are independent: each event of a push draws its own length.
        first = [e[0] - 1 for e in before if len(e) > 1]
        assert_geometric(first, run, kinds=2)


def test_wrong_tokens_are_uniform():
    """The first of a run over all of `wrong` but the right token, later ones over all of `wrong`."""
    rng = np.random.default_rng(4)
    executed, labels, _ = apply_noise(rng, [5] * 4000, eta=0.5, run=0.5)
    first = [a for a, label in zip(executed, labels, strict=True) if a != label == 5]
    further = [a for a, label in zip(executed, labels, strict=True) if a != label == BKSPC]
    for drawn, allowed in ((first, [6, 9]), (further, WRONG)):
        counts = np.bincount(drawn, minlength=V)
        assert counts[allowed].sum() == len(drawn)
        assert_counts_fit(counts[allowed], np.full(len(allowed), 1 / len(allowed)))


def test_every_short_history_has_its_exact_probability():
    """For a text of one push: the frequencies of its first three actions against their product."""
    rng, eta, run, draws = np.random.default_rng(11), 0.4, 0.3, 2000
    found = Counter(
        tuple(apply_noise(rng, [5], eta=eta, run=run, wrong=[5, 6], limit=3).executed[:3])
        for _ in range(draws)
    )
    # Only 6 can be the first wrong token; after it come 5 or 6, each with probability run/2.
    exact = {(5,): 1 - eta}
    one = eta * (1 - run)
    exact |= {(6, BKSPC, 5): one * (1 - eta), (6, BKSPC, 6): one * eta}
    for second in (5, 6):
        two = eta * run / 2
        exact[6, second, BKSPC] = two * (1 - run)
        exact |= {(6, second, third): two * run / 2 for third in (5, 6)}
    assert found.keys() == exact.keys()
    assert_counts_fit([found[history] for history in exact], list(exact.values()))


# How the expert fixes a text.


@pytest.mark.parametrize("pops", [{BKSPC: 1}, FEW_EDITS, {BKSPC: 1, POP_TWO: 3, POP_THREE: 4}])
def test_fix_by_popping_uses_the_fewest_edits(pops):
    """Also where largest first is not best: 6 = 3 + 3 takes two edits, 4 + 1 + 1 takes three."""
    fix = fix_by_popping(pops)
    assert not fix.restarts
    for n in range(1, 9):
        edits = fix.edits(n)
        assert sum(pops[edit] for edit in edits) == n
        fewest = next(
            count
            for count in range(1, n + 1)
            if any(sum(way) == n for way in product(pops.values(), repeat=count))
        )
        assert len(edits) == fewest
        # What is left after one edit is fixed as it would be on its own, so labels need no history.
        assert edits[1:] == fix.edits(n - pops[edits[0]])


@pytest.mark.parametrize(
    "fix",
    [fix_by_popping(FEW_EDITS), fix_by_popping(FEW_EDITS | {POP_THREE: 3}), RESETTING],
    ids=["pop 2", "pop 3", "reset"],
)
def test_every_fix_ends_clean(fix):
    """Replayed on the stack machine; every label is the expert's action."""
    rng, edits_used = np.random.default_rng(12), Counter()
    for _ in range(150):
        clean = clean_text(rng)
        executed, labels, imitate = apply_noise(rng, clean, eta=0.3, fix=fix)
        assert len(executed) == len(labels) == len(imitate) and all(imitate)
        states = oracles.texts([BOS], executed, EDITS)
        assert states[-1] == [BOS, *clean]
        for (_, *text), action, label in zip(states, executed, labels, strict=False):
            right = next(
                (n for n in range(len(text)) if text[n : n + 1] != clean[n : n + 1]), len(text)
            )
            wrong = len(text) - right
            assert label == (fix.edits(wrong)[0] if wrong else clean[right])
            assert action == label or action in WRONG
        edits_used.update(set(executed) & set(EDITS))
    assert len(edits_used) > (0 if fix.restarts else 1)


def test_reset_restarts_the_text():
    """A run of wrong tokens, one RESET, then the text from its start."""
    rng = np.random.default_rng(13)
    clean, seen = [4, 5, 6, EOS], 0
    for _ in range(200):
        executed, labels, _ = apply_noise(rng, clean, eta=0.15, run=0.5, fix=RESETTING)
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


# What a noise step teaches, and where noise ends.


def test_noise_step_changes_labels_and_imitate_only():
    """The executed actions are the same under every choice of `step`."""
    clean = [4, 5, 6, 7] * 20 + [EOS]
    by = {step: apply_noise(np.random.default_rng(14), clean, step=step) for step in NOISE_STEPS}
    assert list(by) == ["clean", "imitate", "skip"]
    executed = by["clean"].executed
    assert executed == by["imitate"].executed == by["skip"].executed
    assert by["clean"].labels == by["skip"].labels
    at_noise = [a != label for a, label in zip(executed, by["clean"].labels, strict=True)]
    assert 20 < sum(at_noise) < len(at_noise) / 2
    assert all(by["clean"].imitate) and all(by["imitate"].imitate)
    assert by["imitate"].labels == executed
    assert by["skip"].imitate == [not noisy for noisy in at_noise]


@pytest.mark.parametrize("fix", [BACKSPACING, RESETTING], ids=["backspace", "reset"])
@pytest.mark.parametrize("run", [0.0, 0.5, 1 - 1e-12])
def test_nothing_begins_beyond_the_limit(fix, run):
    """At eta = .99 a text or a run may never end; a run that began before the limit is still fixed."""
    clean = [4, 5, 6, 7, EOS]
    for seed in range(20):
        decisions = apply_noise(
            np.random.default_rng(seed), clean, eta=0.99, run=run, fix=fix, limit=50
        )
        longer = apply_noise(
            np.random.default_rng(seed), clean, eta=0.99, run=run, fix=fix, limit=90
        )
        length = len(decisions.executed)
        for short, long in zip(decisions, longer, strict=True):
            assert len(short) == length and long[:50] == short[:50]
        # The last event began before the limit.
        *_, last = oracles.texts([BOS], decisions.executed, EDITS)
        assert last[1:] == clean[: len(last) - 1]
        began = max(n for n in range(length) if (decisions.labels[n] in clean))
        assert began < 50 <= length <= 2 * 50
    assert apply_noise(np.random.default_rng(0), clean, limit=0) == ([], [], [])
