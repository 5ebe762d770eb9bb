"""Reductions under a mask: over the legal actions of a state, and over the steps that count."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sequencematch.core.types import Values


def legal_logits(
    logits: Float[Array, "*batch V"], legal: Bool[Array | np.ndarray, " V"]
) -> Float[Array, "*batch V"]:
    """Logits as float32, -inf at ids that are not actions; their softmax is the policy pi(.|s)."""
    return jnp.where(legal, logits.astype(jnp.float32), -jnp.inf)


def action_values(
    logits: Float[Array, "T V"], actions: Int[Array, " T"], legal: Bool[Array | np.ndarray, " V"]
) -> Values:
    """Q(s_t, a_t) = l(a_t|s_t) and V(s_t) = logsumexp_a l(a|s_t) over the legal actions.

    Args:
      logits: any float dtype [T, V], at the states s_t.
      actions: int32[T], legal ids.
      legal: bool[V], the action set.
    """
    logits = legal_logits(logits, legal)
    q = jnp.take_along_axis(logits, actions[:, None], axis=-1)[:, 0]
    return Values(q=q, v=jax.nn.logsumexp(logits, axis=-1))


def total(x: Float[Array, " *shape"], mask: Bool[Array, " *shape"]) -> Float[Array, ""]:
    """Sum of x where the mask holds, in float32 or better; masked entries may even be nan."""
    # `where`, not a product: 0 * nan is nan, in the sum and in its gradient.
    return jnp.sum(jnp.where(mask, x, 0.0), dtype=jnp.promote_types(x.dtype, jnp.float32))


class Mean(NamedTuple):
    """total / count, not divided yet: parts of a batch add up, and one division is for the whole."""

    total: Float[Array, ""]
    count: Float[Array, ""]

    @property
    def value(self) -> Float[Array, ""]:
        """total / count; 0 where nothing was counted."""
        return self.total / jnp.where(self.count > 0, self.count, 1.0)


def mean(x: Float[Array, " *shape"], mask: Bool[Array, " *shape"]) -> Mean:
    """Mean of x where the mask holds."""
    return Mean(total(x, mask), count(mask))


def count(mask: Bool[Array | np.ndarray, " *shape"]) -> Float[Array, ""]:
    """How often the mask holds, as a float32."""
    return jnp.sum(mask).astype(jnp.float32)


def extremes(
    x: Float[Array, " *shape"], mask: Bool[Array, " *shape"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Smallest and largest x where the mask holds; (inf, -inf) if it holds nowhere."""
    return jnp.min(x, where=mask, initial=jnp.inf), jnp.max(x, where=mask, initial=-jnp.inf)
