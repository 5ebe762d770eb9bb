"""Divergences between the model's and the data's occupancy, as values.

A divergence D_f(p||q) = sum q f(p/q) enters the objective through the concave function
phi(x) = -f*(-x) of the scaled reward x = alpha r on the expert's steps (SequenceMatch, section 3.2).
Every f has f(1) = f'(1) = 0, so that phi(0) = 0 and phi'(0) = 1.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float

Elementwise = Callable[[Float[Array, " *shape"]], Float[Array, " *shape"]]


class Divergence(NamedTuple):
    """What the objective needs to know of a divergence.

    Attributes:
      f: its generator, of the ratio t = rho_pi/rho_E.
      phi: -f*(-x), applied to x = alpha r on the expert's steps.
      psi: what is applied to x on the policy's own steps; None where a divergence asks for no samples.
    """

    f: Elementwise
    phi: Elementwise
    psi: Elementwise | None = None


# The whole parabola: the supremum over all real t, so no reward is ever too low for it.
chi2 = Divergence(
    f=lambda t: (t - 1) ** 2,
    phi=lambda x: x - x**2 / 4,
)

# SequenceMatch's choice: chi2 to the mixture (rho_E + rho_pi)/2, four times, whose conjugate is
# estimated with samples from both sides (LS-IQ's regulariser with c = alpha/4).
chi2_mixture = Divergence(
    f=lambda t: 2 * (t - 1) ** 2 / (t + 1),
    phi=lambda x: x - x**2 / 8,
    psi=lambda x: -(x**2) / 8,
)

DIVERGENCES = {"chi2": chi2, "chi2_mixture": chi2_mixture}
