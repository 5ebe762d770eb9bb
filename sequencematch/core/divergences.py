"""f-divergences between the occupancies of the policy and of the data.

A divergence D_f(p||q) = sum q f(p/q) enters the objective (SequenceMatch, arXiv 2306.05426) through
a concave function of the scaled reward x = alpha r on the expert's steps:

    phi(x) = -f*(-x) = inf_t [x t + f(t)],        phi'(x) = the ratio t = rho_pi/rho_E that attains it.

Every f has f(1) = f'(1) = 0, so phi(0) = 0 and phi'(0) = 1: reward 0 means equal occupancies. Where
the ratio would exceed t_max, phi continues as the line x t_max + f(t_max). This is the exact
conjugate of f restricted to t <= t_max. docs/mathematics.md, sections 2 and 3, has the derivation.

To add a divergence, write five lines and put its name in `DIVERGENCES`; every configuration can then
select it:

    alpha_half = Divergence(
        f=lambda t: 2 * (jnp.sqrt(t) - 1) ** 2,
        phi=lambda x: 2 * x / (2 + x),
        floor=lambda t_max: 2 / jnp.sqrt(t_max) - 2,
    )
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

Elementwise = Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]


def no_floor(t_max: float) -> float:
    """The floor -inf, for a divergence whose phi is used on the whole line."""
    return -jnp.inf


class Divergence(NamedTuple):
    """A divergence D_f and its functions in the objective.

    Attributes:
      f: the generator, a function of the ratio t = rho_pi/rho_E.
      phi: -f*(-x) for x above the floor; applied to x = alpha r on the expert's steps.
      floor: t_max -> the x below which the slope of phi would exceed t_max, -f'(t_max).
      psi: applied to x = alpha r on the policy's steps; None if the divergence needs no samples.
    """

    f: Elementwise
    phi: Elementwise
    floor: Callable[[float], float] = no_floor
    psi: Elementwise | None = None

    @property
    def domain(self) -> float:
        """The lower end of phi's domain, inf {x: phi(x) > -inf}: its floor at t_max = inf."""
        return float(self.floor(jnp.inf))

    def conjugate(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The convex conjugate f*(y) = sup_t [y t - f(t)] = -phi(-y), for -y in the domain."""
        return -self.phi(-y)

    def capped_phi(self, x: Float[Array, "*shape"], t_max: float) -> Float[Array, "*shape"]:
        """phi(x) for x above the floor, and the line x t_max + f(t_max) below it.

        Args:
          x: scaled rewards alpha r.
          t_max: largest slope, the largest ratio rho_pi/rho_E that is distinguished.
        """
        floor = self.floor(t_max)
        # phi is evaluated at the floor where x lies below it: `where` passes gradients to both
        # branches, and outside the domain phi's would be nan.
        inside = self.phi(jnp.where(x < floor, floor, x))
        return jnp.where(x < floor, x * t_max + self.f(t_max), inside)


# The supremum over all real t, negative ratios included. So phi is a whole parabola and needs no floor.
chi2 = Divergence(
    f=lambda t: (t - 1) ** 2,
    phi=lambda x: x - x**2 / 4,
)

# SequenceMatch's choice: four times chi2 to the mixture (rho_E + rho_pi)/2, estimated from samples of
# both sides (LS-IQ's regulariser with c = alpha/4).
chi2_mixture = Divergence(
    f=lambda t: 2 * (t - 1) ** 2 / (t + 1),
    phi=lambda x: x - x**2 / 8,
    psi=lambda x: -(x**2) / 8,
)

# The same divergence in closed form: the policy's side is maximised out, so no samples are needed. Its
# optimum is the minimum over policies on the data. `chi2_mixture`, whose samples carry no gradient, is
# within O(alpha^2) of it if data and samples have the same noise. Beyond x = 6 the best ratio is t = 0.
# phi equals 4 sqrt(2 (2 + x)) - 8 - x; this form has no cancellation near x = 0.
le_cam = Divergence(
    f=lambda t: 2 * (t - 1) ** 2 / (t + 1),
    phi=lambda x: jnp.where(x < 6, 4 * x / (1 + jnp.sqrt(1 + jnp.minimum(x, 6) / 2)) - x, 2.0),
    floor=lambda t_max: 8 / (1 + t_max) ** 2 - 2,
)

# KL(rho_pi || rho_E).
reverse_kl = Divergence(
    f=lambda t: xlogy(t, t) - t + 1,
    phi=lambda x: -jnp.expm1(-x),
    floor=lambda t_max: -jnp.log(t_max),
)

# KL(rho_E || rho_pi).
forward_kl = Divergence(
    f=lambda t: t - 1 - jnp.log(t),
    phi=lambda x: jnp.log1p(x),
    floor=lambda t_max: 1 / t_max - 1,
)

# Twice the usual Jensen-Shannon divergence. phi is log(2 - e^-x), written to be accurate near 0. The
# floor is written so that t_max = inf gives -log 2.
js = Divergence(
    f=lambda t: xlogy(t, t) - (t + 1) * jnp.log((t + 1) / 2),
    phi=lambda x: jnp.log1p(-jnp.expm1(-x)),
    floor=lambda t_max: -jnp.log(2 / (1 + 1 / t_max)),
)

# Twice the usual squared Hellinger distance.
hellinger = Divergence(
    f=lambda t: (jnp.sqrt(t) - 1) ** 2,
    phi=lambda x: x / (1 + x),
    floor=lambda t_max: t_max**-0.5 - 1,
)

# Total variation. f is kinked, so phi is piecewise linear: the best ratio is 0, 1 or t_max.
tv = Divergence(
    f=lambda t: jnp.abs(t - 1) / 2,
    phi=lambda x: jnp.minimum(x, 0.5),
    floor=lambda t_max: -0.5,
)

DIVERGENCES = {
    "chi2": chi2,
    "chi2_mixture": chi2_mixture,
    "le_cam": le_cam,
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "js": js,
    "hellinger": hellinger,
    "tv": tv,
}
