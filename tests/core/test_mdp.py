"""The builder of trajectories against a stack machine."""

from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core import mdp
from sequencematch.core.trajectory import build_trajectory
from sequencematch.models.attention import interval_mask
from tests import oracles

PAD, BOS, EOS, BKSPC, A = range(5)
SMALL = mdp.make(5, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})
PROMPTS = [[BOS], [BOS, A, A]]

POP_TWO, POP_ALL = 5, 6
EDITS = {BKSPC: 1, POP_TWO: 2, POP_ALL: 99}
LETTERS = range(7, 20)
LARGE = mdp.make(20, eos=EOS, pad=PAD, never=[BOS], edits=EDITS)

COMMON = ["tokens", "positions", "state", "valid", "actions", "imitate"]


def strings(length):
    """Every action string of at most `length` symbols; nothing follows `<eos>`."""
    for n in range(length + 1):
        for word in product((A, BKSPC), repeat=n):
            yield [*word]
            if n < length:
                yield [*word, EOS]


def episodes(pairs, slots, filler=EOS):
    return oracles.stacked(
        [oracles.laid_out(p, a, a, slots=slots, filler=filler) for p, a in pairs]
    )


@cache
def builder(name):
    return jax.jit(jax.vmap(partial(build_trajectory, {"small": SMALL, "large": LARGE}[name])))


def built(name, batch):
    """The builder's trajectories under a named process, as numpy."""
    return jax.tree.map(np.asarray, builder(name)(batch))


def check(name, edits, pairs, slots):
    """The builder says of every (prompt, actions) what the stack machine says."""
    out = built(name, episodes(pairs, slots))
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
def every():
    """(prompt, actions) for all strings, and their trajectories in 9 slots and in 13."""
    pairs = [(prompt, actions) for prompt in PROMPTS for actions in strings(6)]
    return pairs, *(check("small", {BKSPC: 1}, pairs, slots) for slots in (9, 13))


def random_pairs(count, seed=0):
    """Prompts and random strings with every kind of edit; a third of them end with `<eos>`."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        prompt = [BOS, *rng.choice(LETTERS, size=rng.integers(0, 4))]
        actions = oracles.random_actions(
            rng, rng.integers(0, 18), ordinary=LETTERS, edits=list(EDITS)
        )
        yield prompt, [*actions, EOS] if i % 3 == 0 else actions


def test_every_short_string(every):
    pairs, tight, _ = every
    assert len(pairs) == 2 * (127 + 63)
    # Among them are some that fill every slot: ended there, and cut there.
    full = tight.end == 8
    assert (full & tight.finished).any() and (full & ~tight.finished).any()


@pytest.mark.stress
def test_every_string_of_twelve_actions():
    pairs = [(prompt, actions) for prompt in PROMPTS for actions in strings(12)]
    assert len(pairs) == 2 * (8191 + 4095)
    check("small", {BKSPC: 1}, pairs, 15)


def test_random_strings_with_larger_edits():
    out = check("large", EDITS, list(random_pairs(150)), 24)
    assert out.finished.any() and not out.finished.all()


def test_padding_changes_no_field(every):
    _, tight, loose = every
    for name in COMMON:
        np.testing.assert_array_equal(getattr(tight, name), getattr(loose, name)[:, :9])
    # What is never popped is visible until the end, wherever that is.
    alive = tight.visible_until == 9
    np.testing.assert_array_equal(
        np.where(alive, 13, tight.visible_until)[:, :8], loose.visible_until[:, :8]
    )
    for name in ("start", "end", "finished"):
        np.testing.assert_array_equal(getattr(tight, name), getattr(loose, name))


def test_labels_and_imitate_are_passed_on():
    prompt, actions, labels = [BOS, A], [A, BKSPC, EOS], [EOS, A, EOS]
    imitate = [True, False, True]
    episode = oracles.laid_out(prompt, actions, labels, slots=8, filler=EOS, imitate=imitate)
    out = built("small", oracles.stacked([episode]))
    np.testing.assert_array_equal(out.actions[0, 1:4], labels)
    np.testing.assert_array_equal(out.imitate[0], episode.imitate)


def test_what_follows_the_end_is_ignored():
    pairs = list(random_pairs(30, seed=1))
    clean = built("large", episodes(pairs, 24, filler=EOS))
    for filler in (BKSPC, 9):
        dirty = built("large", episodes(pairs, 24, filler=filler))
        for name in set(clean._fields) - {"actions"}:
            np.testing.assert_array_equal(getattr(clean, name), getattr(dirty, name), name)


def test_an_edit_at_the_prompt_does_nothing_and_its_slot_is_dead():
    prompt = [BOS, 8]
    for edit in EDITS:
        out = built("large", episodes([(prompt, [edit, edit, 9])], 6))
        assert out.state[0].tolist() == [0, 1, 1, 1, 4, 5]
        assert out.positions[0].tolist() == [0, 1, 0, 0, 2, 0]
        assert out.visible_until[0].tolist() == [6, 6, 3, 4, 6, 6]
        assert not out.finished[0]


def test_a_larger_edit_pops_what_there_is():
    popped = {BKSPC: [7, 8], POP_TWO: [7], POP_ALL: []}
    for edit, left in popped.items():
        out = built("large", episodes([([BOS], [7, 8, 9, edit])], 6))
        on_top = out.state[0, 4]
        assert out.tokens[0, 1 : on_top + 1].tolist() == left
    two_of_one = built("large", episodes([([BOS, 7], [8, POP_TWO])], 6))
    assert two_of_one.state[0, 3] == 1


def test_a_slot_sees_the_text_of_its_time_and_itself(every):
    pairs, tight, _ = every
    masks = np.asarray(interval_mask(jnp.asarray(tight.visible_until)))
    for row, (prompt, actions) in enumerate(pairs):
        for n, state in enumerate(oracles.replay(prompt, actions, {BKSPC: 1})):
            query = len(prompt) - 1 + n
            seen = {slot for slot, _ in state} | {query}
            assert set(np.flatnonzero(masks[row, query])) == seen


def test_every_slot_sees_itself(every):
    for trajectories in every[1:]:
        mask = interval_mask(jnp.asarray(trajectories.visible_until))
        assert np.diagonal(mask, axis1=1, axis2=2).all()


def test_finished_needs_an_executed_eos():
    pairs = [([BOS, EOS], []), ([BOS, EOS], [A]), ([BOS, A], [EOS]), ([BOS], [A, A])]
    assert built("small", episodes(pairs, 5)).finished.tolist() == [False, False, True, False]


def test_the_action_sets_of_a_process():
    assert SMALL.legal.tolist() == [False, False, True, True, True]
    assert SMALL.ordinary.tolist() == [False, False, False, False, True]
    assert SMALL.pops.tolist() == [0, 0, 0, 1, 0]
    without = mdp.make(5, eos=EOS, pad=PAD, never=[BOS, BKSPC], edits={})
    assert without.legal.tolist() == [False, False, True, False, True]
    assert not without.pops.any()
    assert LARGE.pops[[BKSPC, POP_TWO, POP_ALL, EOS]].tolist() == [1, 2, 99, 0]
    assert np.flatnonzero(LARGE.ordinary).tolist() == [A, *LETTERS]
