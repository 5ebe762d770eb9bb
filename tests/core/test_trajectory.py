"""`build_trajectory` against a stack machine in plain Python."""

from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core import mdp
from sequencematch.core.trajectory import build_trajectory
from sequencematch.models.attention import is_visible
from tests import oracles
from tests.marks import stress

PAD, BOS, EOS, BKSPC, A = range(5)
SMALL = mdp.make(5, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})
PROMPTS = [[BOS], [BOS, A, A]]

POP_TWO, POP_ALL = 5, 6
EDITS = {BKSPC: 1, POP_TWO: 2, POP_ALL: 99}
LETTERS = range(7, 20)
LARGE = mdp.make(20, eos=EOS, pad=PAD, never=[BOS], edits=EDITS)
RESETTING = {BKSPC: 1, POP_TWO: 2, POP_ALL: mdp.EVERYTHING}
RESET = mdp.make(20, eos=EOS, pad=PAD, never=[BOS], edits=RESETTING)

COMMON = ["tokens", "positions", "state", "valid", "actions", "imitate"]


def all_strings(length):
    """All action strings of at most `length` actions; `<eos>` comes last if at all."""
    for n in range(length + 1):
        for word in product((A, BKSPC), repeat=n):
            yield [*word]
            if n < length:
                yield [*word, EOS]


def episodes(pairs, slots, filler=EOS):
    return oracles.stack_episodes(
        [oracles.lay_out_episode(p, a, a, slots=slots, filler=filler) for p, a in pairs]
    )


@cache
def builder(name):
    process = {"small": SMALL, "large": LARGE, "reset": RESET}[name]
    return jax.jit(jax.vmap(partial(build_trajectory, process)))


def build_batch(name, batch):
    """The trajectories of a batch under a named process, as numpy arrays."""
    return jax.tree.map(np.asarray, builder(name)(batch))


def mask_of(trajectories):
    """bool[B, T, T]: whether the query in slot i sees the key in slot j."""
    t = jax.tree.map(jnp.asarray, trajectories)
    return np.asarray(is_visible(t.visibility.slot, t.visible_until))


def check_against_stack_machine(name, edits, pairs, slots):
    """Asserts that trajectories of (prompt, actions) pairs equal the stack machine's; returns them."""
    out = build_batch(name, episodes(pairs, slots))
    for row, (prompt, actions) in enumerate(pairs):
        expected = oracles.track(prompt, actions, slots=slots, edits=edits, eos=EOS, pad=PAD)
        for field in expected._fields:
            np.testing.assert_array_equal(
                getattr(out, field)[row],
                getattr(expected, field),
                f"{field} of {prompt} + {actions}",
            )
    return out


@pytest.fixture(scope="module")
def short_strings():
    """(prompt, actions) of all short strings, and their trajectories in 9 slots and in 13."""
    pairs = [(prompt, actions) for prompt in PROMPTS for actions in all_strings(6)]
    return pairs, *(
        check_against_stack_machine("small", {BKSPC: 1}, pairs, slots) for slots in (9, 13)
    )


def random_pairs(count, seed=0):
    """Prompts and random strings with every kind of edit; a third of the strings end with `<eos>`."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        prompt = [BOS, *rng.choice(LETTERS, size=rng.integers(0, 4))]
        actions = oracles.random_actions(
            rng, rng.integers(0, 18), ordinary=LETTERS, edits=list(EDITS)
        )
        yield prompt, [*actions, EOS] if i % 3 == 0 else actions


def test_every_short_string_equals_the_stack_machine(short_strings):
    pairs, tight, _ = short_strings
    assert len(pairs) == 2 * (127 + 63)
    # Some fill all slots: of these, some finish there and some are cut there.
    full = tight.end == 8
    assert (full & tight.finished).any() and (full & ~tight.finished).any()


@pytest.mark.exhaustive
@pytest.mark.stress
def test_every_string_of_twelve_actions_equals_the_stack_machine():
    pairs = [(prompt, actions) for prompt in PROMPTS for actions in all_strings(12)]
    assert len(pairs) == 2 * (8191 + 4095)
    check_against_stack_machine("small", {BKSPC: 1}, pairs, 15)


def test_random_strings_with_larger_edits_equal_the_stack_machine():
    out = check_against_stack_machine("large", EDITS, list(random_pairs(150)), 24)
    assert out.finished.any() and not out.finished.all()


@pytest.mark.parametrize("slots", [1, 2, 3, stress(127), 128, stress(129), stress(200)])
def test_episodes_of_any_length_equal_the_stack_machine(slots):
    """Deep texts, sudden RESETs, a start and an end at any slot, the first and the last included."""
    rng = np.random.default_rng(slots)
    pairs = [([BOS], []), ([BOS] * slots, []), ([BOS], [POP_ALL] * (slots - 1))]
    for _ in range(12):
        prompt = [BOS] * rng.integers(1, slots + 1)
        kinds, odds = [*LETTERS[:3], BKSPC, POP_TWO, POP_ALL], rng.dirichlet([3, 3, 3, 1, 1, 0.1])
        count = rng.choice([slots - len(prompt), rng.integers(0, slots - len(prompt) + 1)])
        pairs.append((prompt, rng.choice(kinds, count, p=odds).tolist()))
    check_against_stack_machine("reset", RESETTING, pairs, slots)


def test_many_resets_do_not_overflow():
    """Three times 2^30 is more than an int32 holds."""
    actions = [7, 8, *[POP_ALL] * 5, 9, 10, POP_ALL, 11, EOS]
    check_against_stack_machine("reset", RESETTING, [([BOS, 7], actions)], 16)


def test_padding_changes_no_field(short_strings):
    _, tight, loose = short_strings
    for name in COMMON:
        np.testing.assert_array_equal(getattr(tight, name), getattr(loose, name)[:, :9])
    # A token that is never popped is visible until the last slot, however many there are.
    alive = tight.visible_until == 9
    np.testing.assert_array_equal(
        np.where(alive, 13, tight.visible_until)[:, :8], loose.visible_until[:, :8]
    )
    for name in ("start", "end", "finished"):
        np.testing.assert_array_equal(getattr(tight, name), getattr(loose, name))


def test_labels_and_imitate_are_copied():
    prompt, actions, labels = [BOS, A], [A, BKSPC, EOS], [EOS, A, EOS]
    imitate = [True, False, True]
    episode = oracles.lay_out_episode(prompt, actions, labels, slots=8, filler=EOS, imitate=imitate)
    out = build_batch("small", oracles.stack_episodes([episode]))
    np.testing.assert_array_equal(out.actions[0, 1:4], labels)
    np.testing.assert_array_equal(out.imitate[0], episode.imitate)


def test_slots_after_the_end_are_ignored():
    pairs = list(random_pairs(30, seed=1))
    clean = build_batch("large", episodes(pairs, 24, filler=EOS))
    for filler in (BKSPC, 9):
        dirty = build_batch("large", episodes(pairs, 24, filler=filler))
        for name in set(clean._fields) - {"actions"}:
            np.testing.assert_array_equal(getattr(clean, name), getattr(dirty, name), name)


def test_edit_at_the_prompt_changes_no_text_and_its_slot_is_dead():
    prompt = [BOS, 8]
    for edit in EDITS:
        out = build_batch("large", episodes([(prompt, [edit, edit, 9])], 6))
        assert out.state[0].tolist() == [0, 1, 1, 1, 4, 5]
        assert out.positions[0].tolist() == [0, 1, 0, 0, 2, 0]
        assert out.visible_until[0].tolist() == [6, 6, 3, 4, 6, 6]
        assert not out.finished[0]


def test_larger_edit_pops_no_more_than_the_text_holds():
    popped = {BKSPC: [7, 8], POP_TWO: [7], POP_ALL: []}
    for edit, left in popped.items():
        out = build_batch("large", episodes([([BOS], [7, 8, 9, edit])], 6))
        on_top = out.state[0, 4]
        assert out.tokens[0, 1 : on_top + 1].tolist() == left
    two_of_one = build_batch("large", episodes([([BOS, 7], [8, POP_TWO])], 6))
    assert two_of_one.state[0, 3] == 1


def test_slot_sees_the_text_of_its_time_and_itself(short_strings):
    pairs, tight, _ = short_strings
    masks = mask_of(tight)
    for row, (prompt, actions) in enumerate(pairs):
        for n, state in enumerate(oracles.replay(prompt, actions, {BKSPC: 1})):
            query = len(prompt) - 1 + n
            seen = {slot for slot, _ in state} | {query}
            assert set(np.flatnonzero(masks[row, query])) == seen


def test_every_slot_sees_itself(short_strings):
    for trajectories in short_strings[1:]:
        assert np.diagonal(mask_of(trajectories), axis1=1, axis2=2).all()


def test_finished_needs_an_executed_eos():
    pairs = [([BOS, EOS], []), ([BOS, EOS], [A]), ([BOS, A], [EOS]), ([BOS], [A, A])]
    assert build_batch("small", episodes(pairs, 5)).finished.tolist() == [False, False, True, False]
