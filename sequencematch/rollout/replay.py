"""A ring buffer of samples from the policy, as a pytree: new episodes replace the oldest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from sequencematch.core.types import Episode


class ReplayBuffer(NamedTuple):
    """The newest `capacity` episodes and their ages.

    Attributes:
      episodes: fields stacked to [capacity, ...].
      born: int32[capacity], the training step at which each episode was sampled.
      added: int32, number of episodes ever added; the next one goes to row added mod capacity.
    """

    episodes: Episode
    born: Int[Array, " C"]
    added: Int[Array, ""]


def empty_buffer(capacity: int, slots: int) -> ReplayBuffer:
    """A buffer with room for `capacity` episodes of `slots` slots each."""
    grid, row = jnp.zeros((capacity, slots), jnp.int32), jnp.zeros(capacity, jnp.int32)
    episodes = Episode(grid, grid, grid.astype(bool), row, row)
    return ReplayBuffer(episodes, row, jnp.int32(0))


def add(replay: ReplayBuffer, episodes: Episode, step: Int[Array, ""]) -> ReplayBuffer:
    """Adds a batch of at most `capacity` episodes in place of the oldest ones.

    Args:
      replay: the buffer.
      episodes: the new episodes, batched.
      step: int32, the current training step.
    """
    capacity, new = replay.born.shape[0], episodes.end.shape[0]
    # Capacity is at least the batch, so no index repeats and the order of writes does not matter.
    where = (replay.added + jnp.arange(new)) % capacity
    return ReplayBuffer(
        jax.tree.map(lambda old, x: old.at[where].set(x), replay.episodes, episodes),
        replay.born.at[where].set(step),
        replay.added + new,
    )


def draw(
    replay: ReplayBuffer, key: PRNGKeyArray, n: int, step: Int[Array, ""]
) -> tuple[Episode, Int[Array, " n"]]:
    """Draws n episodes uniformly with replacement.

    Args:
      replay: the buffer, which must not be empty.
      key: a random key.
      n: number of episodes.
      step: int32, the current training step.

    Returns:
      (episodes, their ages int32[n] in training steps).
    """
    # Until the buffer has filled up once, only its first `added` rows hold episodes.
    size = jnp.minimum(replay.added, replay.born.shape[0])
    index = jax.random.randint(key, (n,), 0, size)
    return jax.tree.map(lambda x: x[index], replay.episodes), step - replay.born[index]
