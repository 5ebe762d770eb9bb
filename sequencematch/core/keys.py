"""Every random key and host seed of a run: a function of (seed, purpose, index).

No key is carried from step to step, so a resumed run draws what the uninterrupted one draws. The index
is a step, 0 for what happens once, or what tells ways to answer apart. Two purposes never share a key.
"""

import enum

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Int, PRNGKeyArray


class Purpose(enum.IntEnum):
    """What randomness is used for. The numbers are part of the format of a run: only append."""

    NOISE = 0  # hard negatives of a step
    REPLAY = 1  # samples drawn from the buffer for a step
    ROLLOUT = 2  # samples of a refresh
    INITIALIZATION = 3  # of the network
    ANSWERS = 4  # drawn in validation, evaluation and by users
    EPISODES = 5  # host: order and noise of the training examples
    PROMPTS = 6  # host: order of the prompts to sample from
    WRONG_STARTS = 7  # host: what answers are begun with


def random_key(seed: ArrayLike, purpose: Purpose, index: int | Int[Array, ""] = 0) -> PRNGKeyArray:
    """The jax key of one purpose at one index."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), index)


def host_seed(seed: int, purpose: Purpose, index: int = 0) -> int:
    """The seed in [0, 2**32) of one purpose at one index, for numpy and grain."""
    return int(np.random.SeedSequence([seed, purpose, index]).generate_state(1)[0])
