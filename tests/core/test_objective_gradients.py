"""The gradient of SequenceMatch's objective: noised states, next and last values, longer samples."""

from functools import partial

import jax
import numpy as np
import pytest

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import (
    WEIGHTINGS,
    expert_objective,
    policy_objective,
    summed_differences,
)
from sequencematch.core.rewards import bound_value, stop_gradient
from tests import oracles
from tests.core.batches import (
    BKSPC,
    BOS,
    CASES,
    EOS,
    EXPERT,
    GOALS,
    POLICY,
    POP_TWO,
    SLOTS,
    SOME,
    SOME_CASES,
    V,
    build,
    divergence_part,
    objective_of,
    per_trajectory,
    read,
    run,
)
from tests.marks import stress


def expert_slopes(goal, batch):
    """dJ/dQ and dJ/dV of the expert's part at each time, for every row."""

    def of_values(goal, arrays):
        values, trajectories = read(*arrays)
        part = jax.grad(lambda v, t: expert_objective(objective_of(goal), v, t))
        return jax.vmap(part)(values, trajectories)

    return jax.tree.map(np.asarray, jax.jit(partial(of_values, goal))(batch.arrays))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_skip_ignores_a_constant_added_at_a_noised_state(weighting):
    """To first order in alpha: the constant adds to Q and V alike, and imitated steps hold Q - V.

    Without `skip`, a step that is not imitated leaves its -kappa_t (V - gamma V') of C behind. So J
    increases by kappa_t gamma per unit of V at the state that the environment led to.
    """
    goal = oracles.Goal("chi2", weighting, 1e-6, 0.8, 0.0, skip=True)
    slopes = expert_slopes(goal, SOME)
    np.testing.assert_allclose(slopes.q + slopes.v, 0, atol=1e-5)
    slopes, paid = expert_slopes(goal._replace(skip=False), SOME), 0
    for row, case in enumerate(SOME_CASES):
        expected = np.zeros(SLOTS)
        for t in case.decisions:
            if not case.imitate[t]:
                expected[t] -= goal.kappa(case, t)
                expected[t + 1] += goal.kappa(case, t) * goal.gamma
                paid += 1
        np.testing.assert_allclose((slopes.q + slopes.v)[row], expected, atol=1e-5)
    assert paid > 10


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", ["chi2", *map(stress, ["le_cam", "reverse_kl"])])
def test_stop_gradient_removes_only_the_slopes_of_the_next_value(name, weighting):
    """The value is the same; dJ/dV(s_{t+1}) loses gamma kappa_t (1 - phi'(alpha r_t)): of C, of r."""
    goal = oracles.Goal(name, weighting, 0.3, 0.8, 0.0)
    still = objective_of(goal)._replace(next_value=stop_gradient)
    slope_of_phi = jax.grad(objective_of(goal).phi)

    @jax.jit
    @jax.vmap
    def values_and_slopes(values, trajectory):
        of_values = [
            jax.value_and_grad(lambda v, j=j: expert_objective(j, v, trajectory))(values)
            for j in (objective_of(goal), still)
        ]
        return tuple(of_values)

    (value, slopes), (same, stopped) = values_and_slopes(*read(*EXPERT.arrays))
    # Where C telescopes it is V(s_0) itself only if V(s_{t+1}) is read as it is.
    rounding = 1e-5 * WEIGHTINGS[weighting].telescopes
    np.testing.assert_allclose(value, same, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(slopes.q, stopped.q, atol=1e-6)
    for row, case in enumerate(CASES[0]):
        missing = np.zeros(SLOTS)
        for t in case.decisions:
            x = goal.alpha * case.reward(t, goal.gamma)
            # A label that is not imitated is in C alone.
            phi = float(slope_of_phi(x)) if case.imitate[t] else 0.0
            missing[t + 1] = goal.gamma * goal.kappa(case, t) * (1 - phi)
        np.testing.assert_allclose((slopes.v - stopped.v)[row], missing, atol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("next_value", [stop_gradient, bound_value(20.0, 0.8), lambda v: 0 * v])
def test_however_the_next_value_is_read_the_limit_is_likelihood(next_value, weighting):
    """As alpha vanishes dJ = sum_t kappa_t (dQ_t - dV_t): each state's softmax stays normalised."""
    goal = oracles.Goal("chi2_mixture", weighting, 1e-6, 0.8, 0.0, skip=True)
    objective = objective_of(goal)._replace(next_value=next_value)
    part = jax.vmap(jax.grad(lambda v, t: expert_objective(objective, v, t)))
    slopes = jax.jit(part)(*read(*EXPERT.arrays))
    for row, case in enumerate(CASES[0]):
        kappa = np.zeros(SLOTS)
        for t in case.decisions:
            kappa[t] = goal.kappa(case, t) * case.imitate[t]
        np.testing.assert_allclose(slopes.q[row], kappa, atol=1e-4)
        np.testing.assert_allclose(slopes.v[row], -kappa, atol=1e-4)


@pytest.mark.parametrize("w", [0.0, 0.5])
def test_with_stopped_values_and_samples_the_limit_is_not_likelihood(w):
    """dJ_E = sum_t kappa_t (dQ_t - (1-w) dV_t) + w kappa_N dV_N: only w = 0 leaves none of V_N."""
    goal = oracles.Goal("chi2_mixture", "discounted", 1e-6, 0.8, w)
    objective = objective_of(goal)._replace(next_value=stop_gradient)
    part = jax.vmap(jax.grad(lambda v, t: expert_objective(objective, v, t)))
    slopes = jax.jit(part)(*read(*EXPERT.arrays))
    for row, case in enumerate(CASES[0]):
        expected = np.zeros(SLOTS)
        for t in case.decisions:
            expected[t] = -(1 - w) * goal.kappa(case, t)
        expected[case.track.end] = w * goal.kappa(case, case.track.end)
        np.testing.assert_allclose(slopes.v[row], expected, atol=1e-4)


@pytest.mark.parametrize("goal", [GOALS[0], GOALS[2], GOALS[4]])
def test_bound_that_no_value_reaches_changes_no_gradient(goal):
    """With w > 0 under uniform weights, too; under discounted ones w counts once there is a bound."""
    near = goal._replace(bound=20.0)
    for a, b in zip(expert_slopes(near, EXPERT), expert_slopes(goal, EXPERT), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


# Last values.


def last_value_slope(goal, arrays, part):
    """d part / d V(s_N) of every row."""

    def per_row(values, trajectory):
        of_v = jax.grad(lambda v: part(objective_of(goal), values._replace(v=v), trajectory))
        return of_v(values.v)[trajectory.end]

    return jax.vmap(per_row)(*read(*arrays))


EXPERT_SLOPES = partial(last_value_slope, part=expert_objective)
POLICY_SLOPES = partial(last_value_slope, part=policy_objective)


def rows_with_slopes(f, goal, batch):
    """The slope and (N, r_{N-1}, V(s_N), finished) of every row that has a decision."""
    for slope, case in zip(np.asarray(run(f, goal, batch.arrays)), batch.cases, strict=True):
        end, n = case.track.end, len(case.decisions)
        if n:
            reward = case.reward(end - 1, goal.gamma)
            yield slope, n, reward, case.value(end), case.track.finished


@pytest.mark.parametrize("goal", [GOALS[1], GOALS[3]], ids=["chi2", "chi2_mixture"])
def test_slope_of_the_expert_objective_at_the_last_value(goal):
    """dJ/dV(s_N) = gamma^N (B'(V(s_N)) - phi'(alpha r_{N-1})), with B' = 1 if it was cut."""
    slope_of_phi = jax.grad(objective_of(goal).divergence.phi)
    rows = list(rows_with_slopes(EXPERT_SLOPES, goal, EXPERT))
    assert {finished for *_, finished in rows} == {True, False}
    for slope, n, reward, value, finished in rows:
        bootstrap = slope_of_phi(goal.alpha * (1 - goal.gamma) * value) if finished else 1.0
        expected = goal.gamma**n * (bootstrap - slope_of_phi(goal.alpha * reward))
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_cut_sample_still_pays_for_its_last_value():
    """Uniform weights: C of a cut sample holds (1-gamma) V(s_N), or J would reward never ending."""
    goal = GOALS[4]
    slope_of_psi = jax.grad(objective_of(goal).divergence.psi)
    rows = list(rows_with_slopes(POLICY_SLOPES, goal, POLICY))
    assert {finished for *_, finished in rows} == {True, False}
    for slope, _, reward, value, finished in rows:
        scale = goal.alpha * (1 - goal.gamma)
        absorbed = slope_of_psi(scale * value) if finished else 0.0
        penalty = -goal.gamma * slope_of_psi(goal.alpha * reward)
        expected = -goal.w * (1 - goal.gamma) + penalty + absorbed
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


# Samples that do not end.


LONG = [5, 6, BKSPC, 7, 8, 5, POP_TWO, 6, 7, 8]


@pytest.fixture(scope="module")
def growing_samples():
    """Prefixes of one sample, with 0, 1, ... of its actions, and then all of it with `<eos>`."""
    strings = [LONG[:n] for n in range(len(LONG) + 1)] + [[*LONG, EOS]]
    episodes = oracles.stack_episodes(
        [
            oracles.lay_out_episode([BOS], a, a, slots=SLOTS, filler=EOS, imitate=False)
            for a in strings
        ]
    )
    logits = np.random.default_rng(7).normal(size=(1, SLOTS, V)).astype(np.float32)
    return np.repeat(logits, len(strings), axis=0), build(episodes)


def test_policy_objective_never_grows_with_longer_samples(growing_samples):
    """Discounted weights: C stays V(s_0), also as a sum, and the mixture's penalty grows."""
    for row, name in enumerate(DIVERGENCES):
        J = np.asarray(divergence_part(policy_objective, "plain", row, 0.7, growing_samples))
        if name == "chi2_mixture":
            assert (np.diff(J) < 0).all()
        else:
            np.testing.assert_allclose(J, J[0], rtol=1e-6)
    summed = per_trajectory(summed_differences, GOALS[3], growing_samples)
    np.testing.assert_allclose(summed, summed[0], rtol=1e-5)
