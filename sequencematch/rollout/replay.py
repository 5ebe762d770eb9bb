"""A ring buffer of samples from the policy, as a pytree: new ones replace the oldest.

Samples are kept as trajectories: each is built once, and drawn many times.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from sequencematch.core.types import Trajectory


class ReplayBuffer(NamedTuple):
    """The newest `capacity` samples and their ages.

    Attributes:
      trajectories: fields stacked to [capacity, ...].
      born: int32[capacity], the training step at which each was sampled.
      added: int32, number of samples ever added; the next one goes to row added mod capacity.
    """

    trajectories: Trajectory
    born: Int[Array, " C"]
    added: Int[Array, ""]


def empty_buffer(capacity: int, slots: int) -> ReplayBuffer:
    """A buffer with room for `capacity` samples of `slots` slots each."""
    grid, row = jnp.zeros((capacity, slots), jnp.int32), jnp.zeros(capacity, jnp.int32)
    mask, flag = grid.astype(bool), row.astype(bool)
    trajectories = Trajectory(grid, grid, grid, grid, grid, mask, mask, row, row, flag)
    return ReplayBuffer(trajectories, row, jnp.int32(0))


def add(replay: ReplayBuffer, samples: Trajectory, step: Int[Array, ""]) -> ReplayBuffer:
    """Adds a batch of at most `capacity` samples in place of the oldest ones.

    Args:
      replay: the buffer.
      samples: the new ones, batched.
      step: int32, the current training step.
    """
    capacity, new = replay.born.shape[0], samples.end.shape[0]
    # Capacity is at least the batch, so no index repeats and the order of writes does not matter.
    where = (replay.added + jnp.arange(new)) % capacity
    return ReplayBuffer(
        jax.tree.map(lambda old, x: old.at[where].set(x), replay.trajectories, samples),
        replay.born.at[where].set(step),
        replay.added + new,
    )


def draw(
    replay: ReplayBuffer, key: PRNGKeyArray, n: int, step: Int[Array, ""]
) -> tuple[Trajectory, Int[Array, " n"]]:
    """Draws n samples uniformly with replacement.

    Args:
      replay: the buffer, which must not be empty.
      key: a random key.
      n: number of samples.
      step: int32, the current training step.

    Returns:
      (trajectories, their ages int32[n] in training steps).
    """
    # Until the buffer has filled up once, only its first `added` rows hold samples.
    size = jnp.minimum(replay.added, replay.born.shape[0])
    index = jax.random.randint(key, (n,), 0, size)
    return jax.tree.map(lambda x: x[index], replay.trajectories), step - replay.born[index]
