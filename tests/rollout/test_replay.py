"""The replay buffer against a deque."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core.types import Trajectory
from sequencematch.rollout import replay
from tests.marks import stress

SLOTS, CAPACITY = 4, 7

add = jax.jit(replay.add)
draw = jax.jit(replay.draw, static_argnums=2)


def trajectories(numbers):
    """Trajectories that carry their number in every field."""
    n = np.asarray(numbers, np.int32)
    grid = np.broadcast_to(n[:, None], (len(n), SLOTS))
    odd = np.broadcast_to((n % 2 == 1)[:, None], (len(n), SLOTS))
    grids = [jnp.asarray(grid + i) for i in range(5)]
    masks = [jnp.asarray(odd), jnp.asarray(~odd)]
    return Trajectory(
        *grids, *masks, jnp.asarray(n + 5), jnp.asarray(n + 6), jnp.asarray(odd[:, 0])
    )


def assert_carries(number, sample):
    """Asserts that all fields of a sample are those of this number."""
    expected = trajectories([number])
    for actual, field in zip(sample, expected, strict=True):
        np.testing.assert_array_equal(actual, field[0])


def fill_buffer(sizes):
    """A buffer after batches of these sizes, and the deque of (number, step) that it must hold."""
    buffer, held, number = replay.empty_buffer(CAPACITY, SLOTS), deque(maxlen=CAPACITY), 100
    for step, size in enumerate(sizes):
        numbers = range(number, number + size)
        buffer = add(buffer, trajectories(numbers), jnp.int32(10 * step))
        held.extend((n, 10 * step) for n in numbers)
        number += size
    return buffer, held


RUNS = {
    "partly": [2, 3],
    "exactly": [3, 4],
    "wrapped within a batch": [3, 3, 3],
    "in one": [7],
    "over and over": [5, 1, 6, 2, 7, 3],
}
FEW = ("partly", "over and over")
runs = pytest.mark.parametrize(
    "sizes", [x if name in FEW else stress(x) for name, x in RUNS.items()], ids=RUNS
)


@runs
def test_buffer_holds_what_a_deque_holds(sizes):
    """Oldest first, if read from the row where the next episode goes."""
    buffer, held = fill_buffer(sizes)
    assert buffer.added == sum(sizes)
    oldest = int(buffer.added) % CAPACITY if buffer.added >= CAPACITY else 0
    for i, (number, step) in enumerate(held):
        slot = (oldest + i) % CAPACITY
        assert_carries(number, jax.tree.map(lambda x, slot=slot: x[slot], buffer.trajectories))
        assert buffer.born[slot] == step


@runs
def test_draws_cover_all_samples_with_their_ages(sizes):
    buffer, held = fill_buffer(sizes)
    now = 100
    drawn, ages = draw(buffer, jax.random.key(0), 200, jnp.int32(now))
    numbers = np.asarray(drawn.tokens[:, 0])
    pairs = set(zip(numbers.tolist(), (now - np.asarray(ages)).tolist(), strict=True))
    assert pairs == set(held)
    for i in range(0, 200, 40):
        assert_carries(numbers[i], jax.tree.map(lambda x, i=i: x[i], drawn))


def test_draws_are_uniform_with_replacement():
    buffer, held = fill_buffer(RUNS["over and over"])
    count = 7000
    drawn, _ = draw(buffer, jax.random.key(1), count, jnp.int32(0))
    counts = np.unique(np.asarray(drawn.tokens[:, 0]), return_counts=True)[1]
    assert len(counts) == len(held) == CAPACITY
    p = 1 / CAPACITY
    assert (abs(counts - count * p) < 5 * np.sqrt(count * p * (1 - p))).all()


def test_draws_are_a_function_of_the_key():
    buffer, _ = fill_buffer([7])
    first, again, other = (
        np.asarray(draw(buffer, jax.random.key(k), 20, jnp.int32(0))[0].end) for k in (2, 2, 3)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_adding_replaces_only_the_oldest():
    before, _ = fill_buffer([7])
    after = add(before, trajectories([1, 2]), jnp.int32(50))
    for old, new in zip(jax.tree.leaves(before)[:-1], jax.tree.leaves(after)[:-1], strict=True):
        np.testing.assert_array_equal(old[2:], new[2:])
    assert after.born.tolist() == [50, 50, 0, 0, 0, 0, 0]


def test_new_buffer_is_empty_and_keeps_its_types():
    buffer = replay.empty_buffer(CAPACITY, SLOTS)
    assert buffer.added == 0 and buffer.trajectories.tokens.shape == (CAPACITY, SLOTS)
    # Adding changes no dtype or shape, so a training step is compiled only once.
    for old, new in zip(jax.tree.leaves(buffer), jax.tree.leaves(fill_buffer([2])[0]), strict=True):
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
