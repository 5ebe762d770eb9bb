"""The methods: which of them sample, and what those that override the objective optimise."""

from functools import partial

import jax
import numpy as np
import pytest

from sequencematch.core.trajectory import build_trajectory
from sequencematch.setup.build import make_plan, training_data
from sequencematch.train import step as steps
from tests.marks import stress
from tests.train.traces import (
    CLONING_TRACE,
    MATCHING_TRACE_WITHOUT_SAMPLES,
    SMALL,
    STEPS,
    record_traces,
)


@pytest.mark.stress
@pytest.mark.parametrize(
    ("method", "traces"),
    [
        stress("mle", CLONING_TRACE),
        stress("bc", CLONING_TRACE),
        stress("unlikelihood", ["unlikelihood"]),
        stress("iql_offline", MATCHING_TRACE_WITHOUT_SAMPLES),
        ("le_cam", CLONING_TRACE + MATCHING_TRACE_WITHOUT_SAMPLES),
    ],
)
def test_a_method_that_needs_no_samples_never_samples(build_with, method, traces, monkeypatch):
    parts = build_with({"method": method})
    traced, plan = record_traces(monkeypatch), make_plan(parts)
    for phase in plan.phases:
        jax.eval_shape(phase.step, parts.like, training_data(parts)[0][0])
    assert traced == traces
    assert (parts.like.replay, parts.recipe.samples) == (None, 0)
    assert not any(map(plan.refreshes, range(STEPS))) and plan.tokens(STEPS)[1] == 0


@pytest.mark.stress
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_chi2_with_discounted_weights_never_samples(build_with, weight, monkeypatch):
    parts = build_with({"objective.divergence": "chi2", "objective.policy_weight": weight})
    traced, plan = record_traces(monkeypatch), make_plan(parts)
    for phase in plan.phases:
        _, metrics = jax.eval_shape(phase.step, parts.like, training_data(parts)[0][0])
    assert traced == CLONING_TRACE + MATCHING_TRACE_WITHOUT_SAMPLES
    assert (parts.like.replay, parts.recipe.samples) == (None, 0)
    assert not any(map(plan.refreshes, range(STEPS))) and plan.tokens(STEPS)[1] == 0
    assert "objective" in metrics and not any(name.startswith("policy/") for name in metrics)


def test_uniform_weights_or_a_mixture_need_samples(build_with):
    changes = {"objective.weighting": "uniform", "objective.policy_weight": 0.5}
    assert build_with(changes).recipe.samples == SMALL["rollout.batch_size"]
    assert build_with(changes | {"objective.policy_weight": 0.0}).recipe.samples > 0  # chi2_mixture
    none = changes | {"objective.policy_weight": 0.0, "objective.divergence": "chi2"}
    assert build_with(none).recipe.samples == 0


@pytest.mark.stress
@pytest.mark.exhaustive
def test_offline_irl_is_td_regularised_maximum_likelihood(build_with):
    """-log pi(a|s) + lambda r^2, with V(s_N) = 0 of finished texts, from the first step on."""
    parts = build_with({"method": "iql_offline", "objective.td_weight": 0.3})
    batch, state = training_data(parts)[0][0], parts.initial()
    expert = jax.jit(jax.vmap(partial(build_trajectory, parts.recipe.mdp)))(batch)
    values = jax.device_get(steps.action_values(parts.recipe, state.params, expert))
    t, gamma, total = jax.device_get(expert), parts.config.objective.gamma, 0.0
    for row, time in np.argwhere(t.imitate):
        last = t.finished[row] and time + 1 == t.end[row]
        next_value = 0.0 if last else values.v[row, time + 1]
        reward = values.q[row, time] - gamma * next_value
        total += -(values.q[row, time] - values.v[row, time]) + 0.3 * reward**2
    _, metrics = make_plan(parts).phases[0].step(state, batch)
    assert t.finished.all() and metrics["beta"] == 0
    np.testing.assert_allclose(metrics["loss"], total / t.imitate.sum(), rtol=1e-5)


@pytest.mark.stress
@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["sequencematch", "iql_offline"])
def test_one_program_serves_a_grid(build_with, method):
    """Seed, alpha, gamma, beta and the learning rate are arguments of the steps, not part of them."""
    numbers = {
        "seed": 2**32 - 1,
        "objective.alpha": 0.3,
        "objective.gamma": 0.998,
        "objective.td_weight": 0.2,
        "objective.bound": True,
        "optimizer.learning_rate": 1e-4,
        "train.beta_end": 0.0,
    }
    programs = []
    for changes in ({"objective.bound": True}, numbers):
        parts = build_with({"method": method} | changes)
        batch, prompts = (data[0] for data in training_data(parts))
        plan = make_plan(parts)
        lowered = [phase.step.lower(parts.like, batch) for phase in plan.phases]
        if parts.recipe.samples:
            lowered.append(plan.refresh.lower(parts.like, *prompts))
        programs.append([x.as_text() for x in lowered])
    assert programs[0] == programs[1]
