"""What the duality asks of the data: support where the policy goes, and one noise on data and samples.

Everything is enumerated, in float64 (`tests.exact`; docs/mathematics.md, sections 2 and 3).
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core.divergences import DIVERGENCES
from tests import exact

ETA = 0.1  # of letters, the probability that the other one is written


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


# Support.

PAIR = exact.TEXTS.index("a") * len(exact.ACTIONS) + exact.ACTIONS.index("<bkspc>")
FORBIDDEN = list(exact.FREE).index(PAIR)


def occupancy_without_forbidden():
    """Occupancy of an expert that never takes one of the legal actions."""
    pi = exact.expert()
    pi.flat[PAIR] = 0
    return np.asarray(exact.occupancy(jnp.asarray(pi / pi.sum(axis=1, keepdims=True))))


@exact.with_derivatives
def objective(x, alpha, rho_expert):
    phi = partial(DIVERGENCES["le_cam"].capped_phi, t_max=1e5)
    return exact.primal_objective(x, rho_expert, phi, alpha)


def dual_of_le_cam(x, alpha, rho_expert):
    """D_f/alpha - H, with f'(infinity) = 2 for each unit of mass off the data."""
    rho, known = np.asarray(exact.occupancy(exact.policy(x))), rho_expert > 0
    f = DIVERGENCES["le_cam"].f(rho[known] / rho_expert[known])
    entropy = -np.sum(rho * np.log(exact.policy(x).ravel()[exact.FREE]))
    return np.sum(rho_expert[known] * f) / alpha + 2 * rho[~known].sum() / alpha - entropy


def test_maximum_of_j_is_the_minimum_over_policies_on_the_data():
    alpha, rho_expert = 1.0, occupancy_without_forbidden()
    x = exact.maximise(objective, alpha, rho_expert)
    J = float(objective(x, alpha, rho_expert)[0])
    # J gains as long as the logit of what the data never shows falls.
    assert exact.policy(x).ravel()[PAIR] < 1e-6
    np.testing.assert_allclose(J, dual_of_le_cam(x, alpha, rho_expert), atol=1e-9)
    # Off the data D_f is finite: entropy is worth more than it for some policy there.
    x[FORBIDDEN] = 0.0
    assert dual_of_le_cam(x, alpha, rho_expert) < J - 1e-3


# Noise.


@cache
def kernel(eta):
    """P(s'|s, a), [S, A, S]: a letter goes wrong with probability eta."""
    wrong = exact.NEXT[:, [1, 0, 2, 3]]  # the letters are the first two actions
    right, other = (np.eye(exact.STATES)[successors] for successors in (exact.NEXT, wrong))
    share = np.where(np.arange(len(exact.ACTIONS)) < 2, eta, 0.0)[None, :, None]
    return exact.LEGAL[..., None] * ((1 - share) * right + share * other)


def occupancy_of_steps(pi, eta):
    """rho(s, a, s') under noise, [S, A, S]."""
    moves = jnp.einsum("sa,sat->st", pi, kernel(eta))
    start = (1 - exact.GAMMA) * jnp.eye(exact.STATES)[0]
    visits = jnp.linalg.solve(jnp.eye(exact.STATES) - exact.GAMMA * moves.T, start)
    return visits[:, None, None] * pi[..., None] * kernel(eta)


@partial(jax.jit, static_argnums=(0, 2))
def slope_and_change(name, x, of_samples, alpha):
    """The gradient of J on noised data, at the occupancy of its own samples, and its Jacobian."""
    divergence, expert = DIVERGENCES[name], occupancy_of_steps(exact.expert(), ETA)
    psi = divergence.psi or jnp.zeros_like

    def J(x, samples):
        logits = jnp.where(exact.LEGAL, exact.logits(x), 0.0)
        r = logits[..., None] - exact.GAMMA * exact.values(x)
        earned = expert * divergence.phi(alpha * r) + samples * psi(alpha * r)
        return jnp.sum(earned) / alpha - (1 - exact.GAMMA) * exact.values(x)[0]

    def slope(x):
        return jax.grad(J)(x, occupancy_of_steps(exact.policy(x), of_samples))

    return slope(x), jax.jacfwd(slope)(x)


def fixed_point(name, of_samples, alpha):
    """The policy at which the gradient is 0, by Newton's method from the expert."""
    x = np.log(exact.expert().flat[exact.FREE])
    for _ in range(100):
        slope, change = slope_and_change(name, x, of_samples, alpha)
        x = x - 0.7 * np.linalg.solve(change, slope)
    assert np.abs(slope).max() < 1e-12
    return np.asarray(exact.policy(x))


@pytest.mark.parametrize(("of_samples", "order"), [(ETA, 2), (0.0, 1)])
def test_sampled_mixture_is_as_near_le_cam_as_its_samples_are_noised(of_samples, order):
    """Their policies differ by O(alpha^2) with one noise on data and samples, else by O(alpha)."""
    apart = [
        np.abs(
            fixed_point("chi2_mixture", of_samples, alpha) - fixed_point("le_cam", 0.0, alpha)
        ).max()
        for alpha in (0.1, 0.01)
    ]
    assert 10**order / 2 < apart[0] / apart[1] < 10**order * 2
    assert apart[1] > 1e-7
