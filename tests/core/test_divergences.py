"""Divergences against the definitions of their conjugates, in float64 unless float32 is meant."""

import functools
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core import divergences
from sequencematch.core.divergences import DIVERGENCES, Divergence, chi2, chi2_mixture, no_floor
from tests import oracles
from tests.marks import stress


def docstring_program():
    """The program in the docstring of `divergences`."""
    lines = divergences.__doc__.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("    alpha_half"))
    stop = next(n for n in range(start, len(lines)) if lines[n] == "    )")
    return textwrap.dedent("\n".join(lines[start : stop + 1]))


def docstring_divergence():
    names = {"Divergence": Divergence, "jnp": jnp}
    exec(docstring_program(), names)
    return names["alpha_half"]


# A divergence that a user adds obeys the same laws as ours. Compiled as a whole, each is one program
# and not one for each of its operations.
EVERY = {
    name: d._replace(f=jax.jit(d.f), phi=jax.jit(d.phi))
    for name, d in (DIVERGENCES | {"alpha_half": docstring_divergence()}).items()
}
every = pytest.mark.parametrize("name", EVERY)

# With a floor, phi is the restricted conjugate of f. The others are whole parabolas: chi2's is the
# supremum over all real t, and chi2_mixture's is one half of a conjugate, with psi as the other half.
conjugate = pytest.mark.parametrize(
    "name", [n for n, d in EVERY.items() if d.floor is not no_floor]
)
# tv is kinked: phi' jumps from 1 to t_max at its floor.
smooth = pytest.mark.parametrize(
    "name", [n for n, d in EVERY.items() if d.floor is not no_floor and n != "tv"]
)
caps = pytest.mark.parametrize("t_max", [3.0, stress(1e5)])

X = np.linspace(-20, 20, 400_001)
FEW = np.concatenate([np.linspace(-20, 20, 81), np.linspace(-2.1, 0.1, 45)])


@pytest.fixture(autouse=True)
def float64(request):
    with jax.enable_x64("float32" not in request.function.__name__):
        yield


def ratios(t_max):
    """A fine grid over 0 < t <= t_max that contains 1 and t_max."""
    return np.unique([0.0, 1.0, t_max, *np.geomspace(1e-12, t_max, 200_000)])[1:]


def slope(function):
    return jax.jit(jax.vmap(jax.grad(function)))


@functools.partial(jax.jit, static_argnums=(0, 2))
def capped_phi(name, x, t_max):
    return EVERY[name].capped_phi(x, t_max)


def test_documented_divergence_is_five_lines():
    assert len(docstring_program().splitlines()) == 5
    # Its generator is twice hellinger's.
    t = np.linspace(0, 9, 91)
    np.testing.assert_allclose(EVERY["alpha_half"].f(t), 2 * DIVERGENCES["hellinger"].f(t))


# The generator.


@every
def test_generator_and_its_slope_are_zero_at_one(name):
    f = EVERY[name].f
    assert f(1.0) == 0
    # tv is kinked there.
    assert name == "tv" or jax.grad(f)(1.0) == 0
    assert (f(np.linspace(0, 10, 1001)) >= -1e-15).all()


@every
def test_generator_is_convex_and_defined_at_zero(name):
    assert (np.diff(EVERY[name].f(np.linspace(0.01, 10, 1000)), 2) > -1e-14).all()
    at_nothing = EVERY[name].f(jnp.zeros(()))
    # KL(rho_E||rho_pi) is infinite where the policy never goes.
    assert at_nothing == np.inf if name == "forward_kl" else np.isfinite(at_nothing)


def divergence(name, p, q):
    """D_f(p||q) = sum q f(p/q)."""
    return np.sum(q * np.asarray(EVERY[name].f(p / q)))


@pytest.fixture
def pair():
    return np.random.default_rng(0).dirichlet(np.ones(9), 2)


@pytest.mark.parametrize("name", ["js", "hellinger", "le_cam", "chi2_mixture", "tv"])
def test_symmetric_divergences_are_symmetric(name, pair):
    p, q = pair
    np.testing.assert_allclose(divergence(name, p, q), divergence(name, q, p), rtol=1e-12)
    t = np.geomspace(0.01, 100, 99)
    f = EVERY[name].f
    np.testing.assert_allclose(f(t), t * np.asarray(f(1 / t)), atol=1e-12)


def kl(p, q):
    return np.sum(p * np.log(p / q))


def test_divergences_equal_their_textbook_definitions(pair):
    p, q = pair
    half = (p + q) / 2
    known = {
        "chi2": np.sum((p - q) ** 2 / q),
        "chi2_mixture": 4 * np.sum((p - half) ** 2 / half),
        "le_cam": 4 * np.sum((p - half) ** 2 / half),
        "forward_kl": kl(q, p),
        "reverse_kl": kl(p, q),
        "js": kl(p, half) + kl(q, half),
        "hellinger": np.sum((np.sqrt(p) - np.sqrt(q)) ** 2),
        "tv": np.sum(np.abs(p - q)) / 2,
    }
    assert known.keys() == DIVERGENCES.keys()
    for name, expected in known.items():
        np.testing.assert_allclose(divergence(name, p, q), expected, rtol=1e-12)
    assert not np.isclose(known["chi2"], np.sum((p - q) ** 2 / p))


# phi, the conjugate.


@every
def test_phi_is_zero_with_slope_one_at_zero(name):
    zero = jnp.zeros(())
    for phi in (EVERY[name].phi, lambda x: capped_phi(name, x, 100.0)):
        assert phi(zero) == 0
        assert jax.grad(phi)(zero) == 1


@every
def test_psi_is_zero_with_slope_zero_at_zero(name):
    psi = EVERY[name].psi
    assert (psi is not None) == (name == "chi2_mixture")
    if psi is not None:
        assert psi(0.0) == 0
        assert jax.grad(psi)(0.0) == 0


@caps
@conjugate
def test_phi_is_the_infimum_over_ratios(name, t_max):
    """phi(x) = -f*(-x) = -sup_{0 < t <= t_max} (-x t - f(t))."""
    t = ratios(t_max)
    f = np.asarray(EVERY[name].f(t))
    supremum = np.array([np.max(-x * t - f) for x in FEW])
    found = np.asarray(capped_phi(name, jnp.asarray(FEW), t_max))
    np.testing.assert_allclose(found, -supremum, rtol=1e-7, atol=1e-7)


def test_phi_of_chi2_is_the_infimum_over_all_real_ratios():
    t = np.linspace(-30, 30, 600_001)
    for x in (-12.0, -2.0, -0.3, 0.0, 0.7, 2.0, 5.0, 12.0):
        supremum = np.max(-x * t - chi2.f(t))
        np.testing.assert_allclose(chi2.phi(x), -supremum, rtol=1e-6, atol=1e-8)
        assert chi2.capped_phi(jnp.asarray(x), 3.0) == chi2.phi(x)


# forward_kl is infinite at t = 0, and so is the optimal reward there.
RATIOS = [(name, t) for name in EVERY for t in (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)]
RATIOS.remove(("forward_kl", 0.0))


@pytest.mark.parametrize(("name", "t"), RATIOS)
def test_optimal_reward_recovers_the_divergence(name, t):
    """max_x phi(x) + t psi(x) - t x = f(t), at the ratio t = rho_pi/rho_E."""
    divergence = EVERY[name]
    # At t = 0 the optimum is at infinite x for most divergences.
    x = np.concatenate([X, np.geomspace(20, 1e9, 99)]) if t == 0 else X
    x = jnp.asarray(x)
    penalty = 0 if divergence.psi is None else divergence.psi(x)
    best = np.max(capped_phi(name, x, 100.0) + t * penalty - t * x)
    np.testing.assert_allclose(best, divergence.f(t), rtol=1e-6, atol=1e-8)


@caps
@conjugate
def test_fenchel_young_inequality(name, t_max):
    """phi(x) <= x t + f(t) for all t <= t_max, with equality at t = phi'(x)."""
    divergence, t = EVERY[name], np.geomspace(1e-3, t_max, 200)

    def phi(x):
        return capped_phi(name, x, t_max)

    x = jnp.asarray(FEW)
    least = x[:, None] * t + divergence.f(t)
    assert (phi(x)[:, None] <= least + 1e-9 * (1 + jnp.abs(least))).all()
    best = slope(phi)(x)
    assert ((best >= 0) & (best <= t_max * (1 + 1e-9))).all()
    np.testing.assert_allclose(phi(x), x * best + divergence.f(best), rtol=1e-8, atol=1e-8)


@caps
@smooth
def test_slope_of_phi_is_t_max_at_the_floor(name, t_max):
    floor = float(EVERY[name].floor(t_max))
    np.testing.assert_allclose(jax.grad(EVERY[name].phi)(floor), t_max, rtol=1e-4)
    assert jax.grad(EVERY[name].phi)(0.5 * floor) < t_max


@caps
@conjugate
def test_capped_phi_is_continuous_and_concave(name, t_max):
    def phi(x):
        return capped_phi(name, x, t_max)

    floor = jnp.asarray(EVERY[name].floor(t_max))
    around = floor + jnp.array([-1e-9, 0.0, 1e-9])
    np.testing.assert_allclose(phi(around), phi(floor), atol=2e-9 * t_max)
    np.testing.assert_allclose(phi(floor), floor * t_max + EVERY[name].f(t_max), atol=1e-6)
    grid = jnp.asarray(np.unique([*np.linspace(-3, 8, 2001), float(floor)]))
    assert (np.diff(slope(phi)(grid)) <= 1e-9 * t_max).all()


@caps
@smooth
def test_capped_phi_is_differentiable_at_the_floor(name, t_max):
    """Also exactly there, where both branches meet."""
    floor = float(EVERY[name].floor(t_max))
    around = floor + jnp.array([-1e-15, 0.0, 1e-15]) * abs(floor)
    found = slope(lambda x: capped_phi(name, x, t_max))(around)
    np.testing.assert_allclose(found, t_max, rtol=1e-3)


def test_slopes_of_tv():
    """t_max below the floor -1/2, then 1, and 0 above 1/2."""
    found = slope(lambda x: capped_phi("tv", x, 7.0))(jnp.array([-0.6, -0.4, 0.4, 0.6]))
    np.testing.assert_array_equal(found, [7, 1, 1, 0])


def test_whole_parabolas_are_not_capped():
    x = jnp.asarray(FEW)
    np.testing.assert_allclose(chi2.capped_phi(x, 2.0), x - x**2 / 4)
    np.testing.assert_allclose(chi2_mixture.capped_phi(x, 2.0), x - x**2 / 8)
    np.testing.assert_allclose(chi2_mixture.psi(x), -(x**2) / 8)


@pytest.mark.parametrize("name", DIVERGENCES)
@caps
def test_capped_phi_equals_the_oracle(name, t_max):
    x = jnp.asarray(FEW)
    expected = [oracles.phi(name, x, t_max) for x in FEW]
    np.testing.assert_allclose(capped_phi(name, x, t_max), expected, rtol=1e-9, atol=1e-9)


# The mixture.


def test_mixture_is_chi2_to_the_mixture():
    """f is four times chi2 between rho_pi and (rho_E + rho_pi)/2, per unit of rho_E."""
    t = np.linspace(0, 8, 81)
    half = (1 + t) / 2
    for name in ("chi2_mixture", "le_cam"):
        np.testing.assert_allclose(EVERY[name].f(t), 4 * half * chi2.f(t / half), atol=1e-12)


def test_optimal_reward_of_the_mixture():
    """r = (4/alpha) (rho_E - rho_pi)/(rho_E + rho_pi) (docs/mathematics.md, section 3)."""
    for t in (0.1, 1.0, 3.0):
        best = X[np.argmax(chi2_mixture.phi(X) + t * chi2_mixture.psi(X) - t * X)]
        np.testing.assert_allclose(best, 4 * (1 - t) / (1 + t), atol=1e-3)


# Numbers.


@every
def test_phi_and_derivatives_are_finite_in_float32(name):
    def phi(x):
        return capped_phi(name, x, 100.0)

    x = jnp.array([-1e4, -70.0, -1.0, -0.5, 0.0, 6.0, 70.0, 1e4], jnp.float32)
    for function in (phi, jax.grad(phi), jax.grad(jax.grad(phi))):
        found = jax.jit(jax.vmap(function))(x)
        assert found.dtype == jnp.float32
        assert np.isfinite(np.asarray(found)).all()


@every
def test_phi_is_accurate_near_zero_in_float32(name):
    """The limit phi(alpha r)/alpha -> r needs a small relative error near 0."""
    x = jnp.array([-1e-6, -1e-4, 1e-4, 1e-6], jnp.float32)
    np.testing.assert_allclose(capped_phi(name, x, 100.0) / x, 1, atol=1e-4)
    np.testing.assert_allclose(capped_phi(name, x, 100.0)[::3] / x[::3], 1, atol=2e-6)


# The domains in the table of docs/mathematics.md, section 3.
DOMAINS = {
    "chi2": -np.inf,
    "chi2_mixture": -np.inf,
    "le_cam": -2,
    "forward_kl": -1,
    "reverse_kl": -np.inf,
    "js": -np.log(2),
    "hellinger": -1,
    "tv": -0.5,
}


def test_domains_equal_the_table():
    assert set(DOMAINS) == set(DIVERGENCES)
    for name, lowest in DOMAINS.items():
        np.testing.assert_allclose(DIVERGENCES[name].domain, lowest, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(DIVERGENCES) - {"chi2_mixture"}))
def test_conjugate_is_the_supremum(name):
    """f*(y) = sup_t [y t - f(t)], over ratios t >= 0 (chi2: over all real t)."""
    divergence = DIVERGENCES[name]
    t = np.linspace(-200 if name == "chi2" else 1e-9, 200, 400_001)
    for y in (-0.9, -0.3, 0.0, 0.2, 0.4):
        best = np.max(y * t - np.asarray(divergence.f(t)))
        np.testing.assert_allclose(divergence.conjugate(jnp.float32(y)), best, atol=2e-4)
