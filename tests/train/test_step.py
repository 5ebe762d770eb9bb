"""The steps of Algorithm 1 learn, are traced once each, and draw hard negatives from the policy."""

import json
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sequencematch.core.keys import Purpose, random_key
from sequencematch.core.likelihood import behavioural_cloning
from sequencematch.core.objective import sequencematch
from sequencematch.core.trajectory import build_trajectory
from sequencematch.core.types import Visibility
from sequencematch.data.noise import WRONG_TOKENS
from sequencematch.rollout import replay, sampler
from sequencematch.setup.build import make_plan, training_data
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.metrics_log import MetricsLog
from sequencematch.train import loop
from sequencematch.train import step as steps
from sequencematch.train.plan import Plan
from sequencematch.train.stop_requests import StopRequests
from tests.train.traces import (
    CLONING,
    CLONING_TRACE,
    MATCHING_TRACE,
    SAMPLING_TRACE,
    STEPS,
    build_small,
    record_traces,
)


class SmallRun(NamedTuple):
    """A trained run, and what was traced and compiled in it."""

    traced: list
    compiled: list  # "jit(NAME)" of each compilation, and "ready" when the first step may begin
    records: list
    state: object
    plan: Plan


@pytest.fixture(scope="module")
def small_run(spellings, tmp_path_factory):
    """A run of SequenceMatch at a fixed beta."""
    folder, parts = tmp_path_factory.mktemp("run"), build_small(spellings, {})
    made = parts.make
    parts = parts._replace(make=lambda s: made(s)._replace(beta=lambda step: 0.5))
    compiled, compile_ahead = [], loop.compile_ahead

    def compile_and_note(*args):
        found = compile_ahead(*args)
        compiled.append("ready")
        return found

    def note_compilation(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note_compilation)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop, "compile_ahead", compile_and_note)
        traced, plan = record_traces(monkeypatch), make_plan(parts)
        with (
            StopRequests() as stop_requests,
            Checkpoints(folder, 1) as checkpoints,
            MetricsLog(folder) as log,
        ):
            recorder = loop.Recorder(
                plan, checkpoints, log, stop_requests, lambda state: {"accuracy/greedy": 0.0}
            )
            state, _ = loop.train(plan, parts.initial(), *training_data(parts), recorder)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return SmallRun(traced, compiled, [r for r in records if r["kind"] == "train"], state, plan)


def mean(records, name):
    return sum(record[name] for record in records) / len(records)


@pytest.mark.stress
@pytest.mark.exhaustive
def test_each_step_is_traced_once_and_cloning_never_samples(small_run):
    assert small_run.traced == CLONING_TRACE + SAMPLING_TRACE + MATCHING_TRACE


@pytest.mark.stress
def test_each_step_is_compiled_once_before_the_first_is_taken(small_run):
    names = ["jit(imitation_step)", "jit(refresh)", "jit(matching_step)"]
    steps = [name for name in small_run.compiled if name == "ready" or name in names]
    assert steps == [*names, "ready"]


@pytest.mark.stress
def test_cloning_lowers_its_loss(small_run):
    cloning = [r for r in small_run.records if r["phase"] == "bc"]
    assert [r["step"] for r in cloning] == list(range(1, CLONING + 1))
    assert mean(cloning[-5:], "loss") < 0.8 * mean(cloning[:5], "loss")
    assert all(r["loss"] == r["bc"] and "objective" not in r for r in cloning)


@pytest.mark.stress
def test_matching_lowers_its_loss_and_raises_the_objective(small_run):
    matching = [r for r in small_run.records if r["phase"] == "sequencematch"]
    assert [r["step"] for r in matching] == list(range(CLONING + 1, STEPS + 1))
    assert mean(matching[-5:], "loss") < mean(matching[:5], "loss")
    assert mean(matching[-5:], "objective") > mean(matching[:5], "objective")
    for r in matching:
        assert r["loss"] == pytest.approx(0.5 * r["bc"] - 0.5 * r["objective"], rel=1e-5)


@pytest.mark.stress
def test_the_replay_buffer_holds_the_newest_samples_and_their_steps(small_run):
    # Refreshed before steps 30, 40 and 50; the buffer holds two refreshes.
    buffer = jax.device_get(small_run.state.replay)
    assert buffer.added == 3 * 8
    assert sorted(buffer.born) == [40] * 8 + [50] * 8
    ages = [r["replay/age"] for r in small_run.records if "replay/age" in r]
    assert ages[:10] == list(range(10)) and max(ages) > 10


@pytest.mark.parametrize("kind", ["random", "ground_truth", "policy", "none"])
def test_samples_have_the_noise_of_the_data_if_asked(build_with, kind):
    run = 0.3 if kind == "random" else 0.0
    changes = {"noise.kind": kind, "noise.eta": 0.4, "noise.run": run}
    parts = build_with({"rollout.noise": True} | changes)
    noise = parts.recipe.rollout_noise
    assert (noise is None) == (kind == "none") and (noise is None or noise[:2] == (0.4, run))
    prompts = jax.device_put(training_data(parts)[1][0])
    samples = jax.jit(partial(steps.refresh, parts.recipe))(parts.initial(), *prompts)
    samples = jax.device_get(samples.replay.trajectories)
    executed = np.roll(samples.tokens, -1, axis=1)
    wrong = samples.valid & (executed != samples.actions)
    assert wrong.any() == (kind != "none")
    drawn_from = {*WRONG_TOKENS[kind](parts.task, parts.tokenizer)}
    assert {*executed[wrong].tolist()} <= drawn_from
    assert run or (parts.recipe.mdp.pops[samples.actions[wrong]] == 0).all()


# Hard negatives: the policy's own wrong tokens.


def spy_on_trajectories(parts, batch, monkeypatch):
    """(parameters, step) -> the trajectories that an imitation step learns from."""
    seen, action_values = [], steps.action_values

    def spy(recipe, params, trajectories):
        seen.append(trajectories)
        return action_values(recipe, params, trajectories)

    monkeypatch.setattr(steps, "action_values", spy)
    like = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), parts.like)

    @jax.jit
    def trajectories(params, step):
        steps.imitation_step(parts.recipe, like._replace(params=params, step=step), batch)
        return seen.pop()

    return lambda params, step=0: jax.device_get(trajectories(params, jnp.int32(step)))


@pytest.fixture
def hard_negatives(build_with):
    """(parts of a run with hard negatives, a batch, parameters, where wrong tokens are pushed)."""
    parts = build_with({"noise.kind": "policy", "noise.eta": 0.3, "method": "bc"})
    batch = training_data(parts)[0][0]
    executed = np.roll(batch.tokens, -1, axis=1)
    wrong = batch.imitate & (executed != batch.labels)
    assert wrong.sum() > 10
    return parts, batch, parts.initial().params, wrong


@pytest.mark.stress
def test_hard_negatives_depend_on_the_parameters_and_labels_do_not(hard_negatives, monkeypatch):
    parts, batch, params, wrong = hard_negatives
    trajectories = spy_on_trajectories(parts, batch, monkeypatch)
    one, again = trajectories(params), trajectories(params)
    other = trajectories(jax.tree.map(lambda x: -x, params))
    later = trajectories(params, step=1)
    slots = np.roll(wrong, 1, axis=1)
    for drawn in (one, other, later):
        np.testing.assert_array_equal(drawn.tokens[~slots], batch.tokens[~slots])
        np.testing.assert_array_equal(drawn.actions, batch.labels)
        assert parts.recipe.mdp.ordinary[drawn.tokens[slots]].all()
        assert (np.roll(drawn.tokens, -1, axis=1)[wrong] != batch.labels[wrong]).all()
        jax.tree.map(np.testing.assert_array_equal, drawn._replace(tokens=one.tokens), one)
    np.testing.assert_array_equal(one.tokens, again.tokens)
    assert (one.tokens != other.tokens).any() and (one.tokens != later.tokens).any()


@pytest.mark.stress
def test_a_sharp_policy_draws_the_argmax_among_wrong_tokens(hard_negatives, monkeypatch):
    """Against a plain causal pass over the surviving text at the wrong step."""
    parts, batch, params, wrong = hard_negatives
    (bkspc,) = parts.tokenizer.pops
    # Logits a thousand times as far apart: nothing is left to chance.
    params["head"]["kernel"][...] *= 1e3
    tokens = spy_on_trajectories(parts, batch, monkeypatch)(params).tokens
    texts, drawn, right = [], [], []
    for row, time in np.argwhere(wrong):
        start = batch.start[row]
        text = list(batch.tokens[row, : start + 1])
        for action in batch.tokens[row, start + 1 : time + 1]:
            text = text[:-1] if action == bkspc else [*text, action]
        texts.append(text)
        drawn.append(tokens[row, time + 1])
        right.append(batch.labels[row, time])
    T = max(map(len, texts))
    padded = np.array([text + [0] * (T - len(text)) for text in texts], np.int32)
    model = nnx.merge(parts.recipe.graph, params)
    depth = jnp.tile(jnp.arange(T), (len(texts), 1))
    everything = Visibility(depth, depth, jnp.full_like(depth, T))
    hidden = jax.jit(model.hidden)(jnp.asarray(padded), everything)
    for i, text in enumerate(texts):
        logits = np.array(model.logits(hidden[i, len(text) - 1]))
        logits[~parts.recipe.mdp.ordinary] = logits[right[i]] = -np.inf
        assert drawn[i] == logits.argmax()


def test_a_matching_step_descends_the_gradient_of_its_loss(tiny_run):
    """L = beta BC - (1 - beta) J, on the step's own draws from the buffer: by plain descent."""
    beta, recipe = 0.2, tiny_run.parts.recipe
    recipe = recipe._replace(optimizer=optax.sgd(1.0), beta=lambda step: beta)
    state = tiny_run.plan.refresh(tiny_run.parts.initial(), *tiny_run.prompts[0])
    state = state._replace(step=jnp.int32(7), opt_state=recipe.optimizer.init(state.params))
    expert = jax.vmap(partial(build_trajectory, recipe.mdp))(tiny_run.episodes[7])
    key = random_key(recipe.seed, Purpose.REPLAY, 7)
    policy, _ = replay.draw(state.replay, key, recipe.samples, state.step)

    @jax.jit
    @jax.grad
    def slope(params):
        pairs = [(steps.action_values(recipe, params, t), t) for t in (expert, policy)]
        J = sequencematch(recipe.objective, *pairs).value
        return beta * behavioural_cloning(*pairs[0]).value - (1 - beta) * J

    after, _ = jax.jit(partial(steps.matching_step, recipe))(state, tiny_run.episodes[7])
    moved = jax.tree.map(jnp.subtract, state.params, after.params)
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-4), moved, slope(state.params)
    )


def test_a_refresh_adds_draws_from_the_policy_itself(tiny_run):
    """At no other temperature, and those of its own step."""
    recipe, prompts = tiny_run.parts.recipe, jax.device_put(tiny_run.prompts[3])
    state = tiny_run.parts.initial()._replace(step=jnp.int32(3))
    key = random_key(recipe.seed, Purpose.ROLLOUT, 3)

    @jax.jit
    def draw(params):
        model, how = recipe.network(params), sampler.Sampling(recipe.max_actions)
        final = sampler.sample(model, recipe.mdp, *prompts, key, how)
        return jax.vmap(partial(build_trajectory, recipe.mdp))(sampler.episodes(recipe.mdp, final))

    found, rows = jax.jit(partial(steps.refresh, recipe))(state, *prompts).replay, len(prompts[1])
    for x, y in zip(*map(jax.tree.leaves, (found.trajectories, draw(state.params))), strict=True):
        np.testing.assert_array_equal(x[:rows], y)
    assert found.born[:rows].tolist() == [3] * rows
