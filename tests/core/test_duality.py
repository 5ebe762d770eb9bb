"""Duality, the estimator and cut trajectories on a decision process that is solved exactly.

Everything is enumerated, in float64 (`tests.exact`).
"""

from functools import cache, partial
from itertools import product, starmap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import WEIGHTINGS, Objective, expert_objective, policy_objective
from sequencematch.core.rewards import TERMINALS, pass_gradient
from tests import exact
from tests.marks import stress

# tv is left out: its best ratios are 0, 1 and t_max, where J has no gradient. chi2 allows ratios below
# 0, but the optimum on this process has none. chi2_mixture has tests of its own.
DUAL = ["chi2", "le_cam", "forward_kl", "reverse_kl", "js", "hellinger"]
T_MAX = 1e5

dual_rows = pytest.mark.parametrize("name", DUAL)
alphas = pytest.mark.parametrize("alpha", [1.0, 0.1])


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


@cache
def rho_expert():
    with jax.ensure_compile_time_eval():
        return np.asarray(exact.occupancy(jnp.asarray(exact.expert())))


@exact.with_derivatives
def program(x, row, alpha, rho):
    """J(l) with samples of occupancy rho; only chi2_mixture depends on rho."""
    divergence = exact.traced_divergence(row, T_MAX)
    J = exact.primal_objective(x, rho_expert(), divergence.phi, alpha)
    return J + exact.sampled_penalty(x, rho, divergence.psi, alpha)


@jax.jit
@partial(jax.vmap, in_axes=(0, None, None))
def duals(x, row, alpha):
    """D_f/alpha - H of the policies softmax x, [n]."""
    return exact.dual_objective(
        exact.policy(x), rho_expert(), exact.traced_divergence(row, T_MAX).f, alpha
    )


@jax.jit
def occupancy_of(x):
    return exact.occupancy(exact.policy(x))


@jax.jit
def rewards_and_slopes(x, row, alpha):
    """r, and phi'(alpha r), at the legal pairs."""
    reward = exact.rewards(x)
    _, slopes = jax.jvp(
        exact.traced_divergence(row, T_MAX).phi, (alpha * reward,), (jnp.ones_like(reward),)
    )
    return reward, slopes


@cache
def optimum(name, alpha):
    """The maximum of J and its argument."""
    numbers = exact.divergence_index(name), alpha, rho_expert()
    x = exact.maximise(program, *numbers)
    return float(program(x, *numbers)[0]), x


# Strong duality.


@alphas
@dual_rows
def test_maximum_of_j_is_minimum_of_divergence_minus_entropy(name, alpha):
    """J <= D_f/alpha - H for any pair, so equality proves that both are optimal."""
    J, x = optimum(name, alpha)
    np.testing.assert_allclose(
        J, duals(x[None], exact.divergence_index(name), alpha)[0], atol=1e-10
    )


@alphas
@dual_rows
def test_no_other_policy_has_smaller_divergence_minus_entropy(name, alpha):
    """No step away from the optimum, large or small, decreases D_f/alpha - H."""
    J, x = optimum(name, alpha)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(300, len(x))) * np.logspace(-4, 1, 300)[:, None]
    excess = duals(x + directions, exact.divergence_index(name), alpha) - J
    assert (excess > -1e-12).all()
    assert (excess[-150:] > 1e-4).all()


@alphas
@dual_rows
def test_weak_duality(name, alpha):
    """J(l) <= D_f/alpha - H(pi) for unrelated l and pi, far from the optimum."""
    x, y = np.random.default_rng(1).normal(size=(2, 300, len(exact.FREE)))
    most = max(
        float(program(each, exact.divergence_index(name), alpha, rho_expert())[0])
        for each in x[:30]
    )
    assert most <= duals(y, exact.divergence_index(name), alpha).min()


@alphas
@dual_rows
def test_slope_of_phi_is_the_ratio_of_occupancies(name, alpha):
    """phi'(alpha r) = rho_pi/rho_E at the optimum."""
    _, x = optimum(name, alpha)
    _, slopes = rewards_and_slopes(x, exact.divergence_index(name), alpha)
    np.testing.assert_allclose(slopes, occupancy_of(x) / rho_expert(), rtol=1e-6)


@dual_rows
def test_optimum_tends_to_the_expert_as_alpha_vanishes(name):
    far = [
        np.abs(occupancy_of(optimum(name, alpha)[1]) - rho_expert()).max() for alpha in (0.1, 0.001)
    ]
    # In proportion to alpha, to first order.
    assert 50 < far[0] / far[1] < 200
    assert far[1] < 1e-3


# The sampled mixture.


@jax.jit
def fixed_point_residual(x, alpha):
    """The gradient of J at fixed rho, for rho = rho_pi of the same l, and its Jacobian.

    The gradient is 0 at a fixed point of the sampled mixture.
    """

    def F(x):
        return program(x, exact.divergence_index("chi2_mixture"), alpha, occupancy_of(x))[1]

    return F(x), jax.jacfwd(F)(x)


@cache
def fixed_point(alpha):
    """The fixed point: first by alternation (fix rho_pi, maximise over l), then by Newton's method."""
    x, row = np.zeros(len(exact.FREE)), exact.divergence_index("chi2_mixture")
    for _ in range(15):
        x = exact.maximise(program, row, alpha, occupancy_of(x), tolerance=1e-9)
    near = occupancy_of(x)
    for _ in range(5):
        slope, change = fixed_point_residual(x, alpha)
        x = x - np.linalg.solve(change, slope)
    # Newton's method stayed at the fixed point that the alternation had come close to.
    assert np.abs(occupancy_of(x) - near).max() < 1e-4
    return x


@pytest.mark.stress
@alphas
def test_sampled_mixture_has_the_reward_of_its_fixed_point(alpha):
    """r = (4/alpha) (rho_E - rho_pi)/(rho_E + rho_pi) (docs/mathematics.md, section 3)."""
    x = fixed_point(alpha)
    rho = occupancy_of(x)
    fixed = 4 / alpha * (rho_expert() - rho) / (rho_expert() + rho)
    np.testing.assert_allclose(rewards_and_slopes(x, 0, alpha)[0], fixed, atol=1e-6)


@pytest.mark.stress
def test_sampled_mixture_tends_to_the_expert_as_alpha_vanishes():
    far = [
        np.abs(occupancy_of(fixed_point(alpha)) - rho_expert()).max() for alpha in (1.0, 0.1, 0.01)
    ]
    assert far[0] > far[1] > far[2]
    assert far[2] < 1e-3


@alphas
def test_reward_of_le_cam_has_a_second_order_term(alpha):
    """At the optimum of le_cam r = u + alpha u^2/8, with u = (4/alpha) (E-pi)/(E+pi) of the mixture.

    The samples' term -alpha u^2/8 depends on where the policy goes, which le_cam counts as reward. The
    sampled estimator holds the samples fixed.
    """
    _, x = optimum("le_cam", alpha)
    rho = occupancy_of(x)
    u = 4 / alpha * (rho_expert() - rho) / (rho_expert() + rho)
    np.testing.assert_allclose(rewards_and_slopes(x, 0, alpha)[0], u + alpha * u**2 / 8, atol=1e-6)


@pytest.mark.stress
def test_le_cam_and_sampled_mixture_agree_to_first_order_in_alpha():
    apart = [
        np.abs(occupancy_of(fixed_point(alpha)) - occupancy_of(optimum("le_cam", alpha)[1])).max()
        for alpha in (0.1, 0.01)
    ]
    assert 50 < apart[0] / apart[1] < 200
    assert apart[0] > 1e-5


# Trajectories: the estimator, and cuts.


def objective(row, alpha, gamma, w, terminal):
    return Objective(
        exact.traced_divergence(row, 100.0),
        alpha,
        gamma,
        w,
        WEIGHTINGS["discounted"],
        TERMINALS[terminal],
        pass_gradient,
    )


def expectation(part, goal, paths, x):
    """The sum over trajectories of P(tau) times a part of J."""
    each = jax.vmap(partial(part, goal))(paths.read(x), paths.trajectories)
    return jnp.sum(paths.probabilities * each)


SHORT_GAMMA = 0.1


@cache
def short_paths():
    """Trajectories of an expert and of a policy that end soon, so that almost nothing is cut off."""
    expert, cut = exact.expert(finishing=0.6), 8
    x = np.random.default_rng(2).normal(size=len(exact.FREE))
    x[exact.FREE % len(exact.ACTIONS) == len(exact.ACTIONS) - 1] += 2
    pi = np.asarray(exact.policy(x))
    found = exact.paths(expert, cut), exact.paths(pi, cut)
    for each in found:
        beyond = each.probabilities[~np.asarray(each.trajectories.finished)].sum()
        assert SHORT_GAMMA**cut * beyond < 1e-9
        np.testing.assert_allclose(each.probabilities.sum(), 1)
    return x, *(exact.occupancy(jnp.asarray(p), SHORT_GAMMA) for p in (expert, pi)), *found


@partial(jax.jit, static_argnames="terminal")
def estimate_and_truth(row, x, rhos, expert, policy, terminal):
    """The expectation of the estimator, and J/(1-gamma)."""
    goal = objective(row, 0.7, SHORT_GAMMA, 0.3, terminal)
    estimate = expectation(expert_objective, goal, expert, x)
    estimate += expectation(policy_objective, goal, policy, x)
    if terminal == "zero":
        # The absorbing state has one action, whose logit is V.
        x = x.at[-1].set(0.0)
    J = exact.primal_objective(x, rhos[0], goal.phi, goal.alpha, SHORT_GAMMA)
    J += exact.sampled_penalty(x, rhos[1], goal.divergence.psi, goal.alpha, SHORT_GAMMA)
    return estimate, J / (1 - SHORT_GAMMA)


@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_estimator_is_unbiased(name, terminal):
    """Its expectation over all trajectories of expert and policy is J/(1-gamma)."""
    x, *rhos, expert, policy = short_paths()
    estimate, truth = estimate_and_truth(
        exact.divergence_index(name), x, rhos, expert, policy, terminal
    )
    np.testing.assert_allclose(estimate, truth, atol=1e-8)


@cache
def cut_paths(cut):
    return exact.paths(exact.expert(), cut, rows=3000)


@jax.jit
@jax.value_and_grad
def cut_loss(x, row, alpha, paths):
    """Minus the expectation of the expert's part over cut trajectories, and its gradient."""
    goal = objective(row, alpha, exact.GAMMA, 0.0, "learned")
    return -expectation(expert_objective, goal, paths, x)


@pytest.mark.parametrize(("alpha", "within"), [stress(0.1, 0.02), (0.01, 0.002)])
@pytest.mark.parametrize(
    ("name", "cut"),
    [
        *starmap(stress, [("chi2", 2), ("chi2", 4), ("chi2", 8), *product(["le_cam"], [2, 4, 8])]),
        *starmap(stress, product(["js", "reverse_kl", "forward_kl"], [4])),
    ],
)
def test_cut_trajectories_recover_the_expert(name, cut, alpha, within):
    """At every state with a decision before the cut, and with values that stay small."""
    # The optimum's distance from the expert goes with alpha/f''(1): give all divergences that of chi2.
    alpha *= jax.grad(jax.grad(DIVERGENCES[name].f))(1.0) / 2
    paths = cut_paths(cut)

    def loss(x):
        return jax.tree.map(np.asarray, cut_loss(x, exact.divergence_index(name), alpha, paths))

    start = np.zeros(len(exact.FREE))
    x = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    decided = np.unique(paths.states[np.asarray(paths.trajectories.valid)])
    assert len(decided) == {2: 3, 4: 7, 8: 7}[cut]
    assert np.abs(exact.policy(x) - exact.expert())[decided].max() < within
    assert np.abs(exact.values(x)[decided]).max() < 10
