"""How an action is chosen from the logits: values that the sampler takes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sequencematch.core.mdp import Mdp

Choice = Callable[[Float[Array, " V"], PRNGKeyArray], Int[Array, ""]]


def greedy(logits: Float[Array, " V"], key: PRNGKeyArray) -> Int[Array, ""]:
    """The likeliest action."""
    return jnp.argmax(logits)


def with_temperature(temperature: float) -> Choice:
    """Draws from softmax(logits / temperature); at 1 the samples are the policy's own."""
    return lambda logits, key: jax.random.categorical(key, logits / temperature)


def with_edit_bias(choose: Choice, mdp: Mdp, bias: float) -> Choice:
    """Chooses with `bias` added to the logits of the edit actions, more or fewer of which it takes.

    For inference (Zhang et al., arXiv 2409.14586): samples to learn from must be the policy's own.
    """
    added = np.float32(bias) * (mdp.pops > 0)
    return lambda logits, key: choose(logits + added, key)
