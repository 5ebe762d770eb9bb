"""The mathematics on an exact decision process: strong duality, what cuts do, and the estimator.

Everything is enumerated, in float64 (`tests.exact`).
"""

from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import WEIGHTINGS, Objective, expert_objective, policy_objective
from sequencematch.core.rewards import TERMINALS, pass_gradient
from tests import exact

# tv is kinked: its best ratios are 0, 1 and t_max, J has no gradient there. chi2 takes ratios below 0
# for what they are, which the optimum on this process never needs. chi2_mixture is below.
DUAL = ["chi2", "le_cam", "forward_kl", "reverse_kl", "js", "hellinger"]
T_MAX = 1e5

dual_rows = pytest.mark.parametrize("name", DUAL)
alphas = pytest.mark.parametrize("alpha", [1.0, 0.1])


@pytest.fixture(autouse=True, scope="module")
def double():
    with jax.enable_x64(True):
        yield


@cache
def rho_expert():
    with jax.ensure_compile_time_eval():
        return np.asarray(exact.occupancy(jnp.asarray(exact.expert())))


@exact.derivatives
def program(x, row, alpha, rho):
    """J(l) where the samples' occupancy is rho, which matters to chi2_mixture alone."""
    divergence = exact.chosen(row, T_MAX)
    J = exact.primal(x, rho_expert(), divergence.phi, alpha)
    return J + exact.sampled(x, rho, divergence.psi, alpha)


@jax.jit
@partial(jax.vmap, in_axes=(0, None, None))
def duals(x, row, alpha):
    """D_f/alpha - H of the policies softmax x, [n]."""
    return exact.dual(exact.policy(x), rho_expert(), exact.chosen(row, T_MAX).f, alpha)


@jax.jit
def occupancy_of(x):
    return exact.occupancy(exact.policy(x))


@jax.jit
def rewards_and_slopes(x, row, alpha):
    """r, and phi'(alpha r), at the legal pairs."""
    reward = exact.rewards(x)
    _, slopes = jax.jvp(exact.chosen(row, T_MAX).phi, (alpha * reward,), (jnp.ones_like(reward),))
    return reward, slopes


@cache
def best(name, alpha):
    """The maximum of J, and where it is."""
    numbers = exact.index(name), alpha, rho_expert()
    x = exact.maximise(program, *numbers)
    return float(program(x, *numbers)[0]), x


# Strong duality.


@alphas
@dual_rows
def test_the_maximum_is_the_minimum(name, alpha):
    """J <= D for any pair, so equality proves both to be the optimum."""
    J, x = best(name, alpha)
    np.testing.assert_allclose(J, duals(x[None], exact.index(name), alpha)[0], atol=1e-10)


@alphas
@dual_rows
def test_no_other_policy_has_a_smaller_divergence_and_entropy(name, alpha):
    """The minimum over policies, on its own: no step away from it, large or small, goes down."""
    J, x = best(name, alpha)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(300, len(x))) * np.logspace(-4, 1, 300)[:, None]
    excess = duals(x + directions, exact.index(name), alpha) - J
    assert (excess > -1e-12).all()
    assert (excess[-150:] > 1e-4).all()


@alphas
@dual_rows
def test_no_logits_do_better_than_any_policy(name, alpha):
    """Weak duality, J(l) <= D_f/alpha - H(pi), far from the optimum."""
    x, y = np.random.default_rng(1).normal(size=(2, 300, len(exact.FREE)))
    most = max(float(program(each, exact.index(name), alpha, rho_expert())[0]) for each in x[:30])
    assert most <= duals(y, exact.index(name), alpha).min()


@alphas
@dual_rows
def test_the_slope_of_phi_is_the_ratio_of_occupancies(name, alpha):
    """phi'(alpha r) = rho_pi/rho_E at the optimum."""
    _, x = best(name, alpha)
    _, slopes = rewards_and_slopes(x, exact.index(name), alpha)
    np.testing.assert_allclose(slopes, occupancy_of(x) / rho_expert(), rtol=1e-6)


@dual_rows
def test_the_optimum_tends_to_the_expert(name):
    far = [
        np.abs(occupancy_of(best(name, alpha)[1]) - rho_expert()).max() for alpha in (0.1, 0.001)
    ]
    # In proportion to alpha, to first order.
    assert 50 < far[0] / far[1] < 200
    assert far[1] < 1e-3


# The sampled mixture.


@jax.jit
def self_consistent(x, alpha):
    """What is 0 at a fixed point: the gradient of J with rho held, at rho = rho_pi of the same l."""

    def F(x):
        return program(x, exact.index("chi2_mixture"), alpha, occupancy_of(x))[1]

    return F(x), jax.jacfwd(F)(x)


@cache
def settled(alpha):
    """Exact alternation, rho_pi held and l maximised, to come close; Newton's method to arrive."""
    x, row = np.zeros(len(exact.FREE)), exact.index("chi2_mixture")
    for _ in range(15):
        x = exact.maximise(program, row, alpha, occupancy_of(x), tolerance=1e-9)
    near = occupancy_of(x)
    for _ in range(5):
        slope, change = self_consistent(x, alpha)
        x = x - np.linalg.solve(change, slope)
    # The alternation had found this fixed point, and no other.
    assert np.abs(occupancy_of(x) - near).max() < 1e-4
    return x


@alphas
def test_the_sampled_mixture_settles_where_its_reward_says(alpha):
    """r = (4/alpha) (rho_E - rho_pi)/(rho_E + rho_pi) (design, section 1)."""
    x = settled(alpha)
    rho = occupancy_of(x)
    fixed = 4 / alpha * (rho_expert() - rho) / (rho_expert() + rho)
    np.testing.assert_allclose(rewards_and_slopes(x, 0, alpha)[0], fixed, atol=1e-6)


def test_it_tends_to_the_expert():
    far = [np.abs(occupancy_of(settled(alpha)) - rho_expert()).max() for alpha in (1.0, 0.1, 0.01)]
    assert far[0] > far[1] > far[2]
    assert far[2] < 1e-3


@alphas
def test_le_cam_also_rewards_what_leads_away_from_the_policys_samples(alpha):
    """At le_cam's optimum r = u + alpha u^2/8 with the mixture's u = (4/alpha) (E-pi)/(E+pi).

    The samples' term -alpha u^2/8 falls with where the policy goes, which le_cam counts as reward;
    the sampled estimator holds the samples fixed.
    """
    _, x = best("le_cam", alpha)
    rho = occupancy_of(x)
    u = 4 / alpha * (rho_expert() - rho) / (rho_expert() + rho)
    np.testing.assert_allclose(rewards_and_slopes(x, 0, alpha)[0], u + alpha * u**2 / 8, atol=1e-6)


def test_so_the_two_agree_to_first_order_in_alpha_only():
    apart = [
        np.abs(occupancy_of(settled(alpha)) - occupancy_of(best("le_cam", alpha)[1])).max()
        for alpha in (0.1, 0.01)
    ]
    assert 50 < apart[0] / apart[1] < 200
    assert apart[0] > 1e-5


# Trajectories: the estimator, and cuts.


def objective(row, alpha, gamma, w, terminal):
    return Objective(
        exact.chosen(row, 100.0),
        alpha,
        gamma,
        w,
        WEIGHTINGS["discounted"],
        TERMINALS[terminal],
        pass_gradient,
    )


def expectation(part, goal, paths, x):
    """sum over trajectories of P(tau) times a part of J."""
    each = jax.vmap(partial(part, goal))(paths.read(x), paths.trajectories)
    return jnp.sum(paths.probabilities * each)


SHORT_GAMMA = 0.1


@cache
def short():
    """Trajectories of an expert and of a policy that soon end: what is behind the cut is nothing."""
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
    """E J-hat, and J/(1-gamma)."""
    goal = objective(row, 0.7, SHORT_GAMMA, 0.3, terminal)
    estimate = expectation(expert_objective, goal, expert, x)
    estimate += expectation(policy_objective, goal, policy, x)
    if terminal == "zero":
        # V of the absorbing state, whose one action has all of it.
        x = x.at[-1].set(0.0)
    J = exact.primal(x, rhos[0], goal.phi, goal.alpha, SHORT_GAMMA)
    J += exact.sampled(x, rhos[1], goal.divergence.psi, goal.alpha, SHORT_GAMMA)
    return estimate, J / (1 - SHORT_GAMMA)


@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_estimator_is_unbiased(name, terminal):
    """E J-hat = J/(1-gamma), over every trajectory of the expert and of the policy."""
    x, *rhos, expert, policy = short()
    estimate, truth = estimate_and_truth(exact.index(name), x, rhos, expert, policy, terminal)
    np.testing.assert_allclose(estimate, truth, atol=1e-8)


@cache
def cut_paths(cut):
    return exact.paths(exact.expert(), cut, rows=3000)


@jax.jit
@jax.value_and_grad
def cut_loss(x, row, alpha, paths):
    """-E J-hat of experts that are cut."""
    goal = objective(row, alpha, exact.GAMMA, 0.0, "learned")
    return -expectation(expert_objective, goal, paths, x)


@pytest.mark.parametrize(("alpha", "within"), [(0.1, 0.02), (0.01, 0.002)])
@pytest.mark.parametrize(
    ("name", "cut"),
    [*product(["chi2", "le_cam"], [2, 4, 8]), *product(["js", "reverse_kl", "forward_kl"], [4])],
)
def test_cut_experts_are_recovered(name, cut, alpha, within):
    """At every state decided before the cut, with values that are no excuse for being cut."""
    # The optimum is as far from the expert as f is flat: alpha is in units of f''(1) = 2, chi2's.
    alpha *= jax.grad(jax.grad(DIVERGENCES[name].f))(1.0) / 2
    paths = cut_paths(cut)

    def loss(x):
        return jax.tree.map(np.asarray, cut_loss(x, exact.index(name), alpha, paths))

    start = np.zeros(len(exact.FREE))
    x = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    decided = np.unique(paths.states[np.asarray(paths.trajectories.valid)])
    assert len(decided) == {2: 3, 4: 7, 8: 7}[cut]
    assert np.abs(exact.policy(x) - exact.expert())[decided].max() < within
    assert np.abs(exact.values(x)[decided]).max() < 10
