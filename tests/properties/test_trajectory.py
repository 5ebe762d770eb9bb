"""`build_trajectory` on any actions under any edits, and on arrays that are not an episode."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sequencematch.core import mdp
from sequencematch.core.trajectory import build_trajectory
from sequencematch.core.types import Episode
from tests import oracles
from tests.properties.given import examples

PAD, BOS, EOS, *REST = range(12)
T = 16
DECISIONS = mdp.make(12, eos=EOS, pad=PAD, never=[BOS], edits={})


@jax.jit
def build(pops, episode):
    """`build_trajectory` with `pops` as an argument, so that one program serves all tables of edits."""
    return build_trajectory(DECISIONS._replace(pops=pops), episode)


def trajectory(edits, episode):
    pops = np.zeros(12, np.int32)
    pops[list(edits)] = list(edits.values())
    return jax.tree.map(np.asarray, build(pops, episode))


tables = st.dictionaries(
    st.sampled_from(REST), st.integers(1, T + 1) | st.just(mdp.EVERYTHING), max_size=4
)
legal = st.sampled_from([EOS, *REST])


@st.composite
def histories(draw):
    """A prompt of any ids, and as many actions, labels and `imitate` after it as fit."""
    prompt = draw(st.lists(st.integers(0, 11), min_size=1, max_size=T - 1))
    actions = draw(st.lists(legal, max_size=T - len(prompt)))
    actions = actions[: actions.index(EOS) + 1] if EOS in actions else actions
    taught = st.lists(st.tuples(legal, st.booleans()), min_size=len(actions), max_size=len(actions))
    return prompt, actions, *map(list, zip(*draw(taught), strict=True) if actions else ([], []))


@examples(100, 4000)
@given(tables, histories(), legal)
def test_any_episode_equals_the_stack_machine(edits, history, filler):
    prompt, actions, labels, imitate = history
    episode = oracles.lay_out_episode(
        prompt, actions, labels, slots=T, filler=filler, imitate=imitate
    )
    found = trajectory(edits, episode)
    # The oracle pops one by one, and T pops are enough to remove everything.
    pops = {edit: min(count, T) for edit, count in edits.items()}
    expected = oracles.track(prompt, actions, slots=T, edits=pops, eos=EOS, pad=PAD)
    for field in expected._fields:
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), field)
    np.testing.assert_array_equal(found.actions, episode.labels)
    np.testing.assert_array_equal(found.imitate, episode.imitate)


int32 = st.integers(-(2**31), 2**31 - 1) | st.integers(-2, T + 1)
rows = st.lists(int32, min_size=T, max_size=T).map(lambda row: np.array(row, np.int32))


@examples(50, 1500)
@given(tables, rows, rows, st.integers(0, T - 1), int32)
def test_garbage_leaves_no_row_empty_and_no_index_out_of_range(edits, tokens, labels, start, end):
    """Compiled code cannot refuse its input, so garbage must at least do no harm.

    Ids and the end may be anything; only the start must be a slot.
    """
    imitate = np.ones(T, bool)
    found = trajectory(edits, Episode(tokens, labels, imitate, np.int32(start), np.int32(end)))
    assert (found.visible_until > np.arange(T)).all()
    assert (found.visible_until <= T).all()
    assert ((found.state >= 0) & (found.state < T)).all()
    assert ((found.positions >= 0) & (found.positions < T)).all()
