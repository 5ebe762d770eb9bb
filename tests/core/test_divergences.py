"""Divergences against the definitions of their conjugates."""

import jax
import numpy as np
import pytest

from sequencematch.core.divergences import DIVERGENCES, chi2, chi2_mixture
from tests import oracles

X = np.linspace(-20, 20, 400_001)

every = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES.keys())


@every
def test_the_generator_touches_zero_at_one(divergence):
    assert divergence.f(1.0) == 0
    assert jax.grad(divergence.f)(1.0) == 0
    assert (divergence.f(np.linspace(0, 10, 1001)) >= 0).all()


@every
def test_phi_and_its_slope_at_zero(divergence):
    assert divergence.phi(0.0) == 0
    assert jax.grad(divergence.phi)(0.0) == 1


@every
def test_psi_and_its_slope_at_zero(divergence):
    if divergence.psi is None:
        # A divergence without samples: then phi alone gives it back, see below.
        assert not np.isclose(divergence.phi(1.0), chi2_mixture.phi(1.0))
    else:
        assert divergence.psi(0.0) == 0
        assert jax.grad(divergence.psi)(0.0) == 0


@every
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_the_best_reward_gives_the_divergence_back(divergence, t):
    """max_x phi(x) + t psi(x) - t x = f(t), at the ratio t = rho_pi/rho_E."""
    penalty = 0 if divergence.psi is None else divergence.psi(X)
    best = np.max(divergence.phi(X) + t * penalty - t * X)
    np.testing.assert_allclose(best, divergence.f(t), rtol=1e-6, atol=1e-8)


def test_phi_of_chi2_is_its_conjugate():
    """phi(x) = -f*(-x) = -sup_t (-x t - f(t)), over all real t."""
    t = np.linspace(-30, 30, 600_001)
    for x in (-12.0, -2.0, -0.3, 0.0, 0.7, 2.0, 5.0, 12.0):
        supremum = np.max(-x * t - chi2.f(t))
        np.testing.assert_allclose(chi2.phi(x), -supremum, rtol=1e-6, atol=1e-8)


def test_the_mixture_takes_one_quadratic_term_on_both_sides():
    np.testing.assert_allclose(chi2_mixture.phi(X), X - X**2 / 8)
    np.testing.assert_allclose(chi2_mixture.psi(X), -(X**2) / 8)


def test_the_mixture_is_chi2_to_the_mixture():
    """f is four times chi2 between rho_pi and (rho_E + rho_pi)/2, per unit of rho_E."""
    t = np.linspace(0, 8, 81)
    half = (1 + t) / 2
    np.testing.assert_allclose(chi2_mixture.f(t), 4 * half * chi2.f(t / half), atol=1e-12)


def test_the_best_reward_of_the_mixture():
    """r = (4/alpha) (rho_E - rho_pi)/(rho_E + rho_pi) (design, section 1)."""
    for t in (0.1, 1.0, 3.0):
        best = X[np.argmax(chi2_mixture.phi(X) + t * chi2_mixture.psi(X) - t * X)]
        np.testing.assert_allclose(best, 4 * (1 - t) / (1 + t), atol=1e-3)


@every
def test_concave_everywhere_and_as_the_oracle_has_it(divergence):
    name = next(name for name, value in DIVERGENCES.items() if value is divergence)
    np.testing.assert_allclose(divergence.phi(X), [oracles.PHI[name](x) for x in X])
    assert (np.diff(divergence.phi(X[::1000]), 2) < 0).all()
