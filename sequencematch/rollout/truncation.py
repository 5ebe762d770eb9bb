"""Which tokens of a distribution may be drawn: the likeliest few, by several rules.

All functions are of one row, after the temperature; V is the vocabulary.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def top_k(logits: Float[Array, " V"], k: float) -> Bool[Array, " V"]:
    """The k likeliest tokens, and those that tie with the last of them (Fan et al. 2018)."""
    return logits >= jax.lax.top_k(logits, min(int(k), logits.shape[0]))[0][-1]


def top_p(logits: Float[Array, " V"], p: float) -> Bool[Array, " V"]:
    """The fewest likeliest tokens whose probabilities sum to p: the nucleus (Holtzman et al. 2020)."""
    order = jnp.argsort(-logits)
    probabilities = jax.nn.softmax(logits)[order]
    above = jnp.cumsum(probabilities) - probabilities  # the mass of all that is likelier
    # The sum reaches 1 before the unlikeliest by rounding.
    return jnp.zeros(logits.shape, bool).at[order].set((above < p) | (p >= 1))


def min_p(logits: Float[Array, " V"], p: float) -> Bool[Array, " V"]:
    """The tokens that are at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    probabilities = jax.nn.softmax(logits)
    return probabilities >= p * jnp.max(probabilities)


def typical(logits: Float[Array, " V"], mass: float) -> Bool[Array, " V"]:
    """The fewest tokens of this mass whose surprise is nearest to the entropy (Meister et al. 2023).

    They are taken in the order of |-log π - H|, H = -Σ π log π, until they have that mass.
    """
    log_probs = jax.nn.log_softmax(logits)
    probabilities = jnp.exp(log_probs)
    entropy = -jnp.sum(jnp.where(probabilities > 0, probabilities * log_probs, 0.0))
    distance = jnp.abs(-log_probs - entropy)
    order = jnp.argsort(distance)
    count = jnp.sum(jnp.cumsum(probabilities[order]) < mass)
    last = jnp.minimum(count, logits.shape[0] - 1)
    return (distance <= distance[order[last]]) & jnp.isfinite(log_probs)


# Name -> (logits, value) -> the tokens that stay; applied in this order where there are several.
TRUNCATIONS: Mapping[str, Callable[[Float[Array, " V"], float], Bool[Array, " V"]]] = {
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
    "typical": typical,
}


def penalise(
    logits: Float[Array, " V"], seen: Bool[Array, " V"], penalty: float
) -> Float[Array, " V"]:
    """Logits of seen tokens divided by the penalty where positive, multiplied by it where negative.

    The repetition penalty of Keskar et al. 2019 (CTRL). It depends on the offset of the logits.
    """
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)
