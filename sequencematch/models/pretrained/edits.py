"""Where the head rows of edits start in a model that has never seen an edit."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def edit_row(
    hidden: Float[Array, "n D"], value: Float[Array, " n"], eta: float, ridge: float = 0.03
) -> Float[Array, " D"]:
    """The row w with which an edit starts at about the noise rate: w . h ~ V(s) + log eta.

    argmin_w sum_i (w . h_i - V_i - log eta)^2 + ridge n m |w|^2, with m the mean square of an entry
    of h. The edit's probability is then about eta: in SmolLM2-135M, from 512 states, .11 on other text
    for eta = .1. With the mean row of the head it would be e^-17.

    Args:
      hidden: final hidden states of some batch.
      value: V(s) of each over all other actions.
      eta: the noise rate, above 0.
      ridge: weight of the penalty.
    """
    h = hidden.astype(jnp.float32)
    n, D = h.shape
    covariance = h.T @ h / n
    penalty = ridge * jnp.trace(covariance) / D
    target = value + jnp.log(eta)
    return jnp.linalg.solve(covariance + penalty * jnp.eye(D), h.T @ target / n)
