"""Random keys of training: each is a function of (seed, step, use)."""

import jax
from jaxtyping import Array, Int, PRNGKeyArray

# The uses of randomness within a step. Each has a stream of its own.
NOISE, REPLAY, ROLLOUT = range(3)


def step_key(seed: int, step: Int[Array, ""], use: int) -> PRNGKeyArray:
    """The random key of one use of randomness in one training step."""
    # No key is carried from step to step, so a resumed run draws what the uninterrupted one draws.
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), use)
