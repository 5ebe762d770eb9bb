"""A ring buffer of the policy's own episodes, as a pytree: the oldest are dropped first."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from sequencematch.core.types import Episode


class ReplayBuffer(NamedTuple):
    """The buffer.

    Attributes:
      episodes: fields stacked to [capacity, ...].
      born: int32[capacity], training step at which an episode was sampled.
      added: int32, episodes ever added; the next one goes to slot added mod capacity.
    """

    episodes: Episode
    born: Int[Array, " C"]
    added: Int[Array, ""]


def empty(capacity: int, slots: int) -> ReplayBuffer:
    """A buffer with room for `capacity` episodes of `slots` slots."""
    grid, row = jnp.zeros((capacity, slots), jnp.int32), jnp.zeros(capacity, jnp.int32)
    episodes = Episode(grid, grid, grid.astype(bool), row, row)
    return ReplayBuffer(episodes, row, jnp.int32(0))


def add(replay: ReplayBuffer, episodes: Episode, step: Int[Array, ""]) -> ReplayBuffer:
    """Writes a batch of at most `capacity` episodes over the oldest ones."""
    capacity, new = replay.born.shape[0], episodes.end.shape[0]
    where = (replay.added + jnp.arange(new)) % capacity
    return ReplayBuffer(
        jax.tree.map(lambda old, x: old.at[where].set(x), replay.episodes, episodes),
        replay.born.at[where].set(step),
        replay.added + new,
    )


def draw(
    replay: ReplayBuffer, key: PRNGKeyArray, n: int, step: Int[Array, ""]
) -> tuple[Episode, Int[Array, " n"]]:
    """n episodes, uniformly with replacement from those there are, and their ages in steps."""
    held = jnp.minimum(replay.added, replay.born.shape[0])
    index = jax.random.randint(key, (n,), 0, held)
    return jax.tree.map(lambda x: x[index], replay.episodes), step - replay.born[index]
