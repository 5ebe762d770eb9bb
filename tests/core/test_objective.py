"""SequenceMatch's objective against explicit loops, its identities and its limits."""

import jax
import numpy as np
import pytest

from sequencematch.core.objective import (
    discounted,
    expert_objective,
    policy_objective,
    start_value,
    summed_differences,
    uniform,
)
from tests import oracles
from tests.core.batches import (
    CASES,
    EDITS,
    EXPERT,
    GOALS,
    POLICY,
    SOME,
    SOME_CASES,
    STRUCTURES,
    bc,
    compile_objective,
    divergence_part,
    goals,
    goals_of,
    gradient,
    objective_of,
    per_trajectory,
    structures,
)


def test_batches_hold_cuts_ends_edits_and_noise():
    for batch in (EXPERT, POLICY):
        trajectories = batch.trajectories
        assert trajectories.finished.any() and not trajectories.finished.all()
        assert (trajectories.end == trajectories.start).any()
        executed = np.roll(batch.episodes.tokens, -1, axis=1)
        assert (trajectories.valid & (executed != batch.episodes.labels)).any()
        assert np.isin(executed, list(EDITS)).any()


def test_structures_reach_cap_bound_terminal_and_skip():
    """Each choice has an effect: V(s_N) is not 0 by itself, and some steps are not imitated."""
    capped, bounded = goals_of("capped")[2], goals_of("bounded")[0]
    case = next(case for case in SOME_CASES if case.track.finished and len(case.decisions) > 3)
    rewards = [capped.alpha * capped.reward(case, t) for t in case.decisions]
    assert any(capped.phi(x) != capped._replace(t_max=1e9).phi(x) for x in rewards)
    assert any(abs(case.value(t + 1)) > bounded.bound for t in case.decisions)
    assert case.value(case.track.end) != capped.value(case, case.track.end) == 0
    assert not all(case.imitate[t] for t in case.decisions)


# Against loops.


@goals
def test_each_part_equals_the_loop(goal):
    for f, oracle, batch, cases in [
        (expert_objective, oracles.expert_objective, EXPERT, CASES[0]),
        (policy_objective, oracles.policy_objective, POLICY, CASES[1]),
    ]:
        expected = [oracle(goal, case) for case in cases]
        actual = per_trajectory(f, goal, batch.arrays)
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@goals
def test_sequencematch_equals_the_loop(goal):
    actual = compile_objective(goal)(EXPERT.arrays, POLICY.arrays)
    np.testing.assert_allclose(actual, oracles.sequencematch(goal, *CASES), rtol=2e-5)


def test_only_imitated_steps_count():
    for goal in GOALS:
        actual = per_trajectory(expert_objective, goal, SOME.arrays)
        expected = [oracles.expert_objective(goal, case) for case in SOME_CASES]
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@structures
def test_every_divergence_under_every_choice_equals_the_loop(structure):
    for row, goal in enumerate(goals_of(structure)):
        for part, oracle, batch, cases in [
            (expert_objective, oracles.expert_objective, SOME, SOME_CASES),
            (policy_objective, oracles.policy_objective, POLICY, CASES[1]),
        ]:
            expected = [oracle(goal, case) for case in cases]
            actual = divergence_part(part, structure, row, goal.alpha, batch.arrays)
            np.testing.assert_allclose(actual, expected, rtol=5e-5, atol=5e-5)


# Identities and limits.


def test_discounted_cost_telescopes_to_the_start_value():
    """C(tau) = V(s_0) for any trajectory."""
    goal = GOALS[3]
    for batch in (EXPERT, POLICY):
        summed = per_trajectory(summed_differences, goal, batch.arrays)
        start = per_trajectory(start_value, goal, batch.arrays)
        np.testing.assert_allclose(summed, start, rtol=1e-5)
    assert discounted.telescopes
    # Without discounting it does not, for trajectories of more than one state.
    summed = per_trajectory(summed_differences, GOALS[4], EXPERT.arrays)
    assert not np.isclose(summed, per_trajectory(start_value, goal, EXPERT.arrays))[2:].any()
    assert not uniform.telescopes


def test_uniform_cost_weighs_later_values_by_one_minus_gamma():
    """C(tau) = V(s_0) + (1-gamma) sum_{t>=1} V(s_t)."""
    goal = GOALS[4]
    summed = per_trajectory(summed_differences, goal, EXPERT.arrays)
    for case, c in zip(CASES[0], summed, strict=True):
        later = sum(case.value(t) for t in range(case.track.start + 1, case.track.end + 1))
        expected = case.value(case.track.start) + (1 - goal.gamma) * later
        np.testing.assert_allclose(c, expected, rtol=1e-5)


@goals
def test_reduces_to_weighted_likelihood_as_alpha_vanishes(goal):
    """phi(alpha r)/alpha -> r, B -> V(s_N), psi -> 0, so that all V cancel but those of C.

    J -> (sum_t kappa_t log pi(a_t|s_t) + w (C(tau_E) - C(tau_pi))) / steps, w = 0 where C telescopes.
    """
    small = goal._replace(alpha=1e-6)
    limit = 0.0
    for case in CASES[0]:
        for t in case.decisions:
            limit += goal.kappa(case, t) * (case.q(t) - case.value(t))
        limit += goal.policy_share * oracles.cost(goal, case)
    costs = sum(oracles.cost(goal, case) for case in CASES[1])
    limit -= goal.policy_share * costs * len(CASES[0]) / len(CASES[1])
    actual = compile_objective(small)(EXPERT.arrays, POLICY.arrays)
    np.testing.assert_allclose(actual, limit / oracles.count_imitated(CASES[0]), rtol=1e-4)


def test_reduces_to_behavioural_cloning_as_alpha_vanishes():
    """At w = 0 under uniform weights, in value and gradient."""
    goal = GOALS[2]._replace(alpha=1e-6)
    value, grads = gradient(goal)((EXPERT.logits, POLICY.logits), EXPERT.trajectories, None)
    expected, expected_grads = jax.value_and_grad(bc)(*EXPERT.arrays)
    np.testing.assert_allclose(value, -expected, rtol=1e-4)
    np.testing.assert_allclose(grads[0], -expected_grads, atol=1e-5)


@pytest.mark.parametrize("structure", sorted(STRUCTURES.keys() - {"bounded", "bounded discounted"}))
def test_every_divergence_reduces_to_weighted_likelihood_as_alpha_vanishes(structure):
    """Per trajectory: sum_t kappa_t log pi(a_t|s_t) + w C over the imitated steps."""
    for row, goal in enumerate(goals_of(structure)):
        for batch, cases in ((EXPERT, CASES[0]), (SOME, SOME_CASES)):
            if batch is SOME and not goal.skip:
                # V of steps neither imitated nor skipped does not cancel: see test_objective_gradients.
                continue
            limits = []
            for case in cases:
                counted = [t for t in case.decisions if case.imitate[t]]
                steps = [goal.kappa(case, t) * (case.q(t) - case.value(t)) for t in counted]
                limits.append(sum(steps) + goal.policy_share * oracles.cost(goal, case))
            actual = divergence_part(expert_objective, structure, row, 1e-6, batch.arrays)
            np.testing.assert_allclose(actual, limits, rtol=1e-4, atol=1e-4)


def test_without_discount_an_offset_of_all_logits_is_fixed_by_a_terminal_value_alone():
    """gamma = 1: J of a finished text does not change under "learned", and does under "zero"."""
    finished = np.array([case.track.finished for case in CASES[0]])
    for terminal, moves in (("learned", False), ("zero", True)):
        goal = GOALS[0]._replace(gamma=1.0, terminal=terminal)
        logits, trajectories = EXPERT.arrays
        one = per_trajectory(expert_objective, goal, (logits, trajectories))
        other = per_trajectory(expert_objective, goal, (logits + 2, trajectories))
        assert np.allclose(other[finished], one[finished], atol=1e-4) != moves


@goals
def test_without_discount_it_is_the_limit(goal):
    """gamma = 1: the absorbing state earns nothing more, and B is g'(0) V(s_N)."""
    expected = oracles.sequencematch(goal._replace(gamma=1 - 1e-8), *CASES)
    batches = EXPERT.trajectories, POLICY.trajectories
    value, grads = gradient(goal._replace(gamma=1.0))((EXPERT.logits, POLICY.logits), *batches)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    _, near = gradient(goal._replace(gamma=1 - 1e-4))((EXPERT.logits, POLICY.logits), *batches)
    for found, limit in zip(grads, near, strict=True):
        np.testing.assert_allclose(found, limit, atol=1e-3 * np.abs(limit).max() + 1e-7)


def test_chi2_without_samples_is_td_regularised_likelihood():
    """Uniform weights, w = 0, V(s_N) = 0: log pi(a|s) - lambda (l(a|s) - gamma V(s'))^2 per step.

    With lambda = alpha/4 (inverse RL, arXiv 2409.01369); finished or cut, with and without `skip`.
    """
    for skip, batch, cases in ((False, EXPERT, CASES[0]), (True, SOME, SOME_CASES)):
        goal = GOALS[2]._replace(terminal="zero", skip=skip)
        weight = goal.alpha / 4
        expected = [
            sum(
                case.q(t) - case.value(t) - weight * goal.reward(case, t) ** 2
                for t in case.decisions
                if case.imitate[t]
            )
            for case in cases
        ]
        actual = per_trajectory(expert_objective, goal, batch.arrays)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_needs_samples_only_for_psi_or_costs_that_do_not_telescope():
    needs = {
        ("chi2", "discounted", 0.0): False,
        ("chi2", "discounted", 0.5): False,
        ("chi2", "uniform", 0.0): False,
        ("chi2", "uniform", 0.5): True,
        ("chi2_mixture", "discounted", 0.0): True,
        ("chi2_mixture", "uniform", 0.0): True,
    }
    for (divergence, weighting, w), needed in needs.items():
        goal = oracles.Goal(divergence, weighting, 0.5, 0.8, w)
        assert objective_of(goal).needs_samples == needed


def test_added_constant_changes_the_objective_but_not_the_likelihood():
    shifted = (EXPERT.logits + 1, EXPERT.trajectories)
    np.testing.assert_allclose(bc(*shifted), bc(*EXPERT.arrays), rtol=1e-5)
    for goal in GOALS[:3]:
        assert abs(compile_objective(goal)(shifted) - compile_objective(goal)(EXPERT.arrays)) > 1e-3


@pytest.mark.parametrize("name", ["le_cam", "hellinger", "js"])
def test_the_objective_caps_phi_at_its_own_t_max(name):
    """Where phi's slope would be larger, as where it is infinite."""
    goal = oracles.Goal(name, "discounted", alpha=1.5, gamma=0.8, w=0.0, t_max=3.0)
    scaled = [goal.alpha * goal.reward(case, t) for case in CASES[0] for t in case.decisions]
    assert any(goal.phi(x) != goal._replace(t_max=1e9).phi(x) for x in scaled)
    found = per_trajectory(expert_objective, goal, EXPERT.arrays)
    expected = [oracles.expert_objective(goal, case) for case in CASES[0]]
    np.testing.assert_allclose(found, expected, rtol=5e-5, atol=5e-5)
