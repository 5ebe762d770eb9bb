"""Ways to choose an action from the logits; each is a function that the sampler takes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sequencematch.core.mdp import Mdp

Choice = Callable[[Float[Array, " V"], PRNGKeyArray], Int[Array, ""]]


def greedy(logits: Float[Array, " V"], key: PRNGKeyArray) -> Int[Array, ""]:
    """The most likely action; the key is not used."""
    return jnp.argmax(logits)


def with_temperature(temperature: float) -> Choice:
    """Draws from softmax(logits / temperature).

    Args:
      temperature: > 0. Only at 1 do samples follow the policy, as training needs.
    """
    return lambda logits, key: jax.random.categorical(key, logits / temperature)


def with_edit_bias(choose: Choice, mdp: Mdp, bias: float) -> Choice:
    """Chooses with `bias` added to the logits of the edits, so that there are more or fewer of them.

    For inference only (Zhang et al., arXiv 2409.14586): samples to learn from must follow the policy.

    Args:
      choose: how to choose from the biased logits.
      mdp: says which actions are edits.
      bias: added to their logits; positive for more edits.
    """
    # float32 as the logits are, so that the sum has their dtype too.
    added = np.float32(bias) * (mdp.pops > 0)
    return lambda logits, key: choose(logits + added, key)
