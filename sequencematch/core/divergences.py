"""Divergences between the model's and the data's occupancy, as values.

A divergence D_f(p||q) = sum q f(p/q) enters the objective through the concave function of the scaled
reward x = alpha r on the expert's steps (SequenceMatch's objective; the duality behind it)

    phi(x) = -f*(-x) = inf_t [x t + f(t)],        phi'(x) = the ratio t = rho_pi/rho_E that attains it.

Every f has f(1) = f'(1) = 0, so that phi(0) = 0 and phi'(0) = 1. Where the ratio would exceed t_max,
phi goes on with slope t_max: the exact conjugate of f restricted to t <= t_max, whose value there is
x t_max + f(t_max).

One of your own is five lines, and with its name in `DIVERGENCES` every experiment can choose it:

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
    """The floor of a divergence whose phi is wanted on the whole line."""
    return -jnp.inf


class Divergence(NamedTuple):
    """What the objective needs to know of a divergence.

    Attributes:
      f: its generator, of the ratio t = rho_pi/rho_E.
      phi: -f*(-x) for x above the floor, applied to x = alpha r on the expert's steps.
      floor: t_max -> the x below which phi's slope would exceed t_max.
      psi: what is applied to x on the policy's own steps; None where a divergence asks for no samples.
    """

    f: Elementwise
    phi: Elementwise
    floor: Callable[[float], float] = no_floor
    psi: Elementwise | None = None

    @property
    def domain(self) -> float:
        """The x above which phi is finite (from it on, for tv): its floor without a largest ratio."""
        return float(self.floor(jnp.inf))

    def conjugate(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """f*(y) = sup_t [y t - f(t)] = -phi(-y), for -y in the domain."""
        return -self.phi(-y)

    def capped_phi(self, x: Float[Array, "*shape"], t_max: float) -> Float[Array, "*shape"]:
        """phi(x), with slope t_max below the floor."""
        floor = self.floor(t_max)
        inside = self.phi(jnp.where(x < floor, floor, x))
        return jnp.where(x < floor, x * t_max + self.f(t_max), inside)


# The whole parabola: the supremum over all real t, so no reward is ever too low for it.
chi2 = Divergence(
    f=lambda t: (t - 1) ** 2,
    phi=lambda x: x - x**2 / 4,
)

# SequenceMatch's choice: four times chi2 to the mixture (rho_E + rho_pi)/2, estimated with samples
# from both sides (LS-IQ's regulariser with c = alpha/4).
chi2_mixture = Divergence(
    f=lambda t: 2 * (t - 1) ** 2 / (t + 1),
    phi=lambda x: x - x**2 / 8,
    psi=lambda x: -(x**2) / 8,
)

# The same divergence in closed form: the policy's side of it is maximised out, so that no samples are
# asked for. Its optimum is the true minimum of the divergence; the sampled one, whose samples have no
# gradient, settles within O(alpha^2) of it. Beyond x = 6 the best ratio is t = 0.
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

# Twice the usual Jensen-Shannon divergence.
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

# Total variation: the ratio is 0, 1 or t_max.
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
