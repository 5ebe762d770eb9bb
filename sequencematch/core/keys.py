"""Every random key of training, from (seed, step, purpose)."""

import jax
from jaxtyping import Array, Int, PRNGKeyArray

# Independent uses of chance within a step.
NOISE, REPLAY, ROLLOUT = range(3)


def step_key(seed: int, step: Int[Array, ""], use: int) -> PRNGKeyArray:
    """The random key of one use of chance in one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), use)
