"""The metrics of a batch against loops: they read values and rewards as J does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.train import statistics
from sequencematch.train.statistics import describe, distance_from_mle
from tests import oracles
from tests.core.batches import CASES, EXPERT, GOALS, MDP, POLICY, objective_of, read
from tests.marks import stress

SETTINGS = {
    "learned": oracles.Goal("chi2", "discounted", alpha=0.7, gamma=0.8, w=0.0),
    "zero": oracles.Goal("chi2", "uniform", alpha=0.7, gamma=0.8, w=0.0, terminal="zero"),
    "bounded": oracles.Goal("chi2", "uniform", alpha=9.0, gamma=0.8, w=0.0, bound=4 / 1.8),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_rewards_and_values_are_those_of_the_objective(name):
    goal = SETTINGS[name]
    found = statistics.read(describe(*read(*EXPERT.arrays), objective_of(goal)))
    steps = [(case, t) for case in CASES[0] for t in case.decisions]
    states = [(c, t) for c in CASES[0] for t in range(c.track.start, c.track.end + 1)]
    rewards = [goal.reward(case, t) for case, t in steps]
    values = [goal.value(case, t) for case, t in states]
    differences = [goal.value(c, t) - goal.gamma * goal.next_value(c, t) for c, t in steps]
    for key, numbers in (("reward", rewards), ("value", values)):
        np.testing.assert_allclose(found[f"{key}/mean"], np.mean(numbers), rtol=1e-4)
        np.testing.assert_allclose(found[f"{key}/min"], np.min(numbers), rtol=1e-4)
        np.testing.assert_allclose(found[f"{key}/max"], np.max(numbers), rtol=1e-4)
    np.testing.assert_allclose(found["td/mean"], np.mean(differences), rtol=1e-4)
    np.testing.assert_allclose(found["td/rms"], np.sqrt(np.mean(np.square(differences))), rtol=1e-4)


def slope(f, x, h=1e-5):
    return (f(x + h) - f(x - h)) / (2 * h)


def gradients(goal, experts, policies):
    """dJ and dL with respect to (Q, V) of every step, [trajectory][slot][2], one term at a time."""
    slots, n = 20, oracles.count_imitated(experts)
    dJ, dL = np.zeros((2, len(experts) + len(policies), slots, 2))
    for row, case in enumerate([*experts, *policies]):
        start, end, finished = case.track.start, case.track.end, case.track.finished
        is_expert = row < len(experts)
        scale = 1 if is_expert else len(experts) / len(policies)
        share = 1 - goal.policy_share if is_expert else goal.policy_share

        def transform(x, is_expert=is_expert):
            return goal.phi(x) if is_expert else oracles.psi(goal.divergence, x)

        for t in case.decisions:
            if case.imitate[t] or not is_expert:
                each = (
                    scale
                    * goal.kappa(case, t)
                    * slope(transform, goal.alpha * goal.reward(case, t))
                )
                dJ[row, t] += [each, 0]
                dJ[row, t + 1] -= [0, goal.gamma * each]
            if is_expert and case.imitate[t]:
                dL[row, t] += goal.kappa(case, t) * np.array([1, -1])
            # C, as it is written.
            dJ[row, t] -= [0, scale * share * goal.kappa(case, t)]
            dJ[row, t + 1] += [0, scale * share * goal.kappa(case, t) * goal.gamma]
        x = goal.alpha * (1 - goal.gamma) * goal.value(case, end)
        ending = slope(transform, x) if finished else float(is_expert)
        dJ[row, end] += [0, scale * goal.kappa(case, end) * (ending - share)]
        assert start <= end < slots
    return dJ / n, dL / n


def ratio(goal, experts, policies):
    dJ, dL = gradients(goal, experts, policies)
    return np.linalg.norm(dJ - dL) / np.linalg.norm(dL)


@pytest.mark.parametrize("goal", [stress(g) if i % 3 else g for i, g in enumerate(GOALS)])
def test_distance_from_mle_is_that_of_the_gradients(goal):
    pairs = read(*EXPERT.arrays), read(*POLICY.arrays)
    found = jax.jit(partial(distance_from_mle, objective_of(goal)))(*pairs)
    expected = ratio(goal, CASES[0], CASES[1])
    np.testing.assert_allclose(found["objective/not_mle"].value, expected, rtol=1e-3)
    alone = jax.jit(partial(distance_from_mle, objective_of(goal._replace(w=0.0))))(pairs[0])
    expected = ratio(goal._replace(w=0.0), CASES[0], [])
    np.testing.assert_allclose(alone["objective/not_mle"].value, expected, rtol=1e-3)


def test_distance_from_mle_vanishes_with_alpha():
    """In proportion to alpha, under discounted weights, whose limit is the weighted likelihood."""
    goals = [GOALS[0]._replace(alpha=alpha) for alpha in (1e-2, 1e-3)]
    far, near = (
        distance_from_mle(objective_of(goal), read(*EXPERT.arrays))["objective/not_mle"].value
        for goal in goals
    )
    assert 8 < far / near < 12 and near < 0.01


def test_shares_of_capped_rewards_edits_and_ends_are_those_of_a_loop():
    goal = oracles.Goal("le_cam", "discounted", alpha=1.5, gamma=0.8, w=0.0, t_max=3.0)
    J = objective_of(goal)
    found = statistics.read(describe(*read(*EXPERT.arrays), J))
    rewards = [1.5 * goal.reward(case, t) for case in CASES[0] for t in case.decisions]
    capped = np.mean(np.array(rewards) < 8 / 16 - 2)  # phi's slope 4/(2 + x)^2 - 1 is t_max there
    assert found["reward/capped"] == pytest.approx(capped) and 0 < capped < 1
    starts = [case.value(case.track.start) for case in CASES[0]]
    assert found["value/start"] == pytest.approx(np.mean(starts), rel=1e-4)
    ages, cases = jnp.arange(len(CASES[1])), CASES[1]
    found = statistics.read(statistics.policy_statistics(MDP, *read(*POLICY.arrays), ages, J))
    edits = [bool(MDP.pops[case.labels[t]]) for case in cases for t in case.decisions]
    assert found["policy/edits"] == pytest.approx(np.mean(edits)) and 0 < np.mean(edits) < 1
    assert found["policy/finished"] == pytest.approx(np.mean([c.track.finished for c in cases]))
    assert found["policy/length"] == pytest.approx(np.mean([len(c.decisions) for c in cases]))
    assert found["replay/age"] == pytest.approx(np.mean(ages))
