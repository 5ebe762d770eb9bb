"""The steps of Algorithm 1: they learn, each is traced once, and each runs only what it needs."""

import json
from functools import partial, wraps
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core.trajectory import build_trajectory
from sequencematch.data.tokenizer import BKSPC
from sequencematch.rollout import replay, sampler
from sequencematch.setup.build import build, make_plan, training_data
from sequencematch.setup.defaults import defaults
from sequencematch.setup.validate import validate
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.metrics_log import MetricsLog
from sequencematch.train import loop
from sequencematch.train import step as steps
from sequencematch.train.plan import Plan
from sequencematch.train.stop_requests import StopRequests
from tests.train import runs

CLONING, STEPS = 30, 60
TINY = runs.TINY | {
    "max_actions": 8,
    "model.layers": 2,
    "model.d_model": 32,
    "model.d_ff": 32,
    "optimizer.warmup": 5,
    "train.steps": STEPS,
    "train.batch_size": 16,
    "train.bc_steps": CLONING,
    "rollout.every": 10,
    "rollout.rows": 8,
    "rollout.capacity": 16,
    "rollout.batch_size": 8,
    "evaluate.every": 50,
    "checkpoint.every": 50,
}


@pytest.fixture
def tiny(spellings):
    return lambda changes: made(spellings, changes)


def made(spellings, changes):
    """A run that compiles in seconds."""
    config = defaults()
    config.update_from_flattened_dict(TINY | {"data.path": spellings} | changes)
    validate(config)
    return build(config)


# What a step may do that costs a pass through the network; a jitted function runs its Python once
# for each trace.
WATCHED = [
    (steps, "refresh"),
    (steps, "action_values"),
    (replay, "draw"),
    (sampler, "sample"),
]
CLONES = ["imitation", "action_values"]
SAMPLES = ["refresh", "sample"]
MATCHES = ["matching", "draw", "action_values", "action_values"]
MATCHES_ALONE = ["matching", "action_values"]


def watch(monkeypatch):
    """The names of the watched functions, in the order in which they are traced."""
    traced = []

    def watched(name, function):
        @wraps(function)
        def run(*args, **options):
            traced.append(name)
            return function(*args, **options)

        return run

    for module, name in WATCHED:
        monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    for name, step in steps.STEPS.items():
        monkeypatch.setitem(steps.STEPS, name, watched(name, step))
    return traced


class Trained(NamedTuple):
    traced: list
    compiled: list  # "jit(NAME)" of each compilation, and "ready" when the first step may begin
    records: list
    state: object
    plan: Plan


@pytest.fixture(scope="module")
def trained(spellings, tmp_path_factory):
    """A whole run of SequenceMatch at a fixed beta, and what was traced in it."""
    folder, run = tmp_path_factory.mktemp("run"), made(spellings, {})
    run = run._replace(recipe=run.recipe._replace(beta=lambda step: 0.5))
    compiled, before = [], loop.compile_ahead

    def ahead(*given):
        before(*given)
        compiled.append("ready")

    def note(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop, "compile_ahead", ahead)
        traced, plan = watch(monkeypatch), make_plan(run)
        with (
            StopRequests() as stop_requests,
            Checkpoints(folder, 1) as checkpoints,
            MetricsLog(folder) as log,
        ):
            state, _ = loop.train(
                plan,
                run.initial(),
                *training_data(run),
                loop.Recorder(
                    plan, checkpoints, log, stop_requests, lambda state: {"accuracy/greedy": 0.0}
                ),
            )
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return Trained(traced, compiled, [r for r in records if r["kind"] == "train"], state, plan)


def mean(records, name):
    return sum(record[name] for record in records) / len(records)


def test_each_step_is_traced_once_and_cloning_never_pays_for_the_policy(trained):
    assert trained.traced == CLONES + SAMPLES + MATCHES


def test_each_step_is_compiled_once_and_before_any_is_taken(trained):
    names = ["jit(imitation_step)", "jit(refresh)", "jit(matching_step)"]
    steps = [name for name in trained.compiled if name == "ready" or name in names]
    assert steps == [*names, "ready"]


@pytest.mark.parametrize(
    ("method", "traces"),
    [
        ("mle", CLONES),
        ("bc", CLONES),
        ("unlikelihood", ["unlikelihood"]),
        ("iql_offline", MATCHES_ALONE),
        ("le_cam", CLONES + MATCHES_ALONE),
    ],
)
def test_methods_without_samples_never_sample(tiny, method, traces, monkeypatch):
    run = tiny({"method": method})
    traced, plan = watch(monkeypatch), make_plan(run)
    for phase in plan.phases:
        jax.eval_shape(phase.step, run.like, training_data(run)[0][0])
    assert traced == traces
    assert (run.like.replay, run.recipe.samples) == (None, 0)
    assert not any(map(plan.refreshes, range(STEPS))) and plan.tokens(STEPS)[1] == 0


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_chi2_needs_no_samples_and_has_none(tiny, weight, monkeypatch):
    run = tiny({"objective.divergence": "chi2", "objective.policy_weight": weight})
    traced, plan = watch(monkeypatch), make_plan(run)
    for phase in plan.phases:
        _, metrics = jax.eval_shape(phase.step, run.like, training_data(run)[0][0])
    assert traced == CLONES + MATCHES_ALONE
    assert (run.like.replay, run.recipe.samples) == (None, 0)
    assert not any(map(plan.refreshes, range(STEPS))) and plan.tokens(STEPS)[1] == 0
    assert "objective" in metrics and not any(name.startswith("policy/") for name in metrics)


def test_uniform_weights_bring_the_samples_back(tiny, monkeypatch):
    changes = {"objective.weighting": "uniform", "objective.policy_weight": 0.5}
    assert tiny(changes).recipe.samples == TINY["rollout.batch_size"]
    assert tiny(changes | {"objective.policy_weight": 0.0}).recipe.samples > 0  # chi2_mixture
    none = changes | {"objective.policy_weight": 0.0, "objective.divergence": "chi2"}
    assert tiny(none).recipe.samples == 0


def test_cloning_lowers_its_loss(trained):
    cloning = [r for r in trained.records if r["phase"] == "bc"]
    assert [r["step"] for r in cloning] == list(range(1, CLONING + 1))
    assert mean(cloning[-5:], "loss") < 0.8 * mean(cloning[:5], "loss")
    assert all(r["loss"] == r["bc"] and "objective" not in r for r in cloning)


def test_matching_lowers_its_loss_and_raises_the_objective(trained):
    matching = [r for r in trained.records if r["phase"] == "sequencematch"]
    assert [r["step"] for r in matching] == list(range(CLONING + 1, STEPS + 1))
    assert mean(matching[-5:], "loss") < mean(matching[:5], "loss")
    assert mean(matching[-5:], "objective") > mean(matching[:5], "objective")
    for r in matching:
        assert r["loss"] == pytest.approx(0.5 * r["bc"] - 0.5 * r["objective"], rel=1e-5)


def test_the_buffer_holds_the_newest_samples_with_the_steps_they_are_of(trained):
    # Refreshed before steps 30, 40 and 50, two refreshes fit.
    buffer = jax.device_get(trained.state.replay)
    assert buffer.added == 3 * 8
    assert sorted(buffer.born) == [40] * 8 + [50] * 8
    ages = [r["replay/age"] for r in trained.records if "replay/age" in r]
    assert ages[:10] == list(range(10)) and max(ages) > 10


# Hard negatives: wrong tokens are the policy's own.


def expert(run, batch, monkeypatch):
    """(parameters, step) -> the trajectories that an imitation step learns from."""
    seen, values = [], steps.action_values

    def spy(recipe, params, trajectories):
        seen.append(trajectories)
        return values(recipe, params, trajectories)

    monkeypatch.setattr(steps, "action_values", spy)
    like = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), run.like)

    @jax.jit
    def trajectories(params, step):
        steps.imitation_step(run.recipe, like._replace(params=params, step=step), batch)
        return seen.pop()

    return lambda params, step=0: jax.device_get(trajectories(params, jnp.int32(step)))


@pytest.fixture
def hard(tiny):
    """(run with hard negatives, a batch, parameters, the places of wrong tokens)."""
    run = tiny({"noise.kind": "policy", "noise.eta": 0.3, "method": "bc"})
    batch = training_data(run)[0][0]
    executed = np.roll(batch.tokens, -1, axis=1)
    wrong = batch.imitate & (executed != batch.labels)
    assert wrong.sum() > 10
    return run, batch, run.initial().params, wrong


def test_hard_negatives_follow_the_parameters_and_labels_do_not(hard, monkeypatch):
    run, batch, params, wrong = hard
    trajectories = expert(run, batch, monkeypatch)
    one, again = trajectories(params), trajectories(params)
    other = trajectories(jax.tree.map(lambda x: -x, params))
    later = trajectories(params, step=1)
    slots = np.roll(wrong, 1, axis=1)
    for drawn in (one, other, later):
        np.testing.assert_array_equal(drawn.tokens[~slots], batch.tokens[~slots])
        np.testing.assert_array_equal(drawn.actions, batch.labels)
        assert (drawn.tokens[slots] > BKSPC).all()
        assert (np.roll(drawn.tokens, -1, axis=1)[wrong] != batch.labels[wrong]).all()
        rest = {"tokens": one.tokens}
        jax.tree.map(np.testing.assert_array_equal, drawn._replace(**rest), one)
    np.testing.assert_array_equal(one.tokens, again.tokens)
    assert (one.tokens != other.tokens).any() and (one.tokens != later.tokens).any()


def test_a_policy_that_is_sure_has_its_likeliest_wrong_token_drawn(hard, monkeypatch):
    """Against the argmax after a plain causal pass over the text that stands at the wrong step."""
    run, batch, params, wrong = hard
    # Logits a thousand times as far apart: the draw is no longer one.
    params["head"]["kernel"][...] *= 1e3
    tokens = expert(run, batch, monkeypatch)(params).tokens
    texts, drawn, right = [], [], []
    for row, time in np.argwhere(wrong):
        start = batch.start[row]
        text = list(batch.tokens[row, : start + 1])
        for action in batch.tokens[row, start + 1 : time + 1]:
            text = text[:-1] if action == BKSPC else [*text, action]
        texts.append(text)
        drawn.append(tokens[row, time + 1])
        right.append(batch.labels[row, time])
    T = max(map(len, texts))
    padded = np.array([text + [0] * (T - len(text)) for text in texts], np.int32)
    model = nnx.merge(run.recipe.graph, params)
    depth = jnp.tile(jnp.arange(T), (len(texts), 1))
    hidden = jax.jit(model)(jnp.asarray(padded), depth, jnp.full_like(depth, T))
    for i, text in enumerate(texts):
        logits = np.array(model.logits(hidden[i, len(text) - 1]))
        logits[: BKSPC + 1] = logits[right[i]] = -np.inf
        assert drawn[i] == logits.argmax()


# Methods that decide their own objective.


def test_offline_irl_is_td_regularised_maximum_likelihood(tiny):
    """-log pi(a|s) + lambda r^2 with V(s_N) = 0 of finished texts, from the first step on."""
    run = tiny({"method": "iql_offline", "objective.td_weight": 0.3})
    batch, state = training_data(run)[0][0], run.initial()
    expert = jax.vmap(partial(build_trajectory, run.recipe.mdp))(batch)
    values = jax.device_get(steps.action_values(run.recipe, state.params, expert))
    t, gamma, total = jax.device_get(expert), run.config.objective.gamma, 0.0
    for row, time in np.argwhere(t.imitate):
        last = t.finished[row] and time + 1 == t.end[row]
        following = 0.0 if last else values.v[row, time + 1]
        reward = values.q[row, time] - gamma * following
        total += -(values.q[row, time] - values.v[row, time]) + 0.3 * reward**2
    _, metrics = make_plan(run).phases[0].step(state, batch)
    assert t.finished.all() and metrics["beta"] == 0
    np.testing.assert_allclose(metrics["loss"], total / t.imitate.sum(), rtol=1e-5)
