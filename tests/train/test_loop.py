"""The plan of a run against obvious loops, its schedules, and what the loop does when."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.setup.build import make_recipe
from sequencematch.setup.defaults import defaults
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.metrics_log import MetricsLog
from sequencematch.train import guard, loop
from sequencematch.train import mesh as meshes
from sequencematch.train.optimizer import learning_rate, make_optimizer
from sequencematch.train.plan import Phase, Plan
from sequencematch.train.state import TrainState
from sequencematch.train.stop_requests import StopRequests
from tests.train.runs import Plain

SLOTS, ROWS = 7, 3


def plan(*phases, every=1, log=1, evaluate=1, save=1, refresh=None):
    sharding = meshes.batch_sharding(meshes.make_mesh(1, 1))
    refresh = refresh and Plain(refresh)
    return Plan(phases, refresh, SLOTS, every, ROWS, log, evaluate, save, 0, sharding)


def phase(name, until, samples=False, passes=2, step=None):
    return Phase(name, step and Plain(step), until, samples, passes)


PLANS = [
    plan(phase("mle", 9), every=2),
    plan(phase("bc", 5), phase("sequencematch", 17, True, 4), every=3),
    plan(phase("bc", 6), phase("sequencematch", 17, True, 4), every=3),
    plan(phase("bc", 0), phase("sequencematch", 5, True, 4), every=2),
    plan(phase("bc", 4), phase("sequencematch", 9, False, 3), every=1),
    plan(phase("bc", 4), phase("sequencematch", 9, True, 3), every=50),
    plan(phase("a", 3, True), phase("b", 3, True), phase("c", 8, True, 5), every=4),
]


@pytest.mark.parametrize("plan", PLANS)
def test_phases_refreshes_and_tokens_are_those_of_a_plain_loop(plan):
    step, trained, sampled = 0, 0, 0
    for phase in plan.phases:
        since = 0
        while step < phase.until:
            assert plan.tokens(step) == (trained, sampled)
            assert plan.phase(step) is phase
            assert plan.refreshes(step) == (phase.samples and since % plan.refresh_every == 0)
            sampled += plan.refreshes(step) * ROWS * SLOTS
            trained += phase.passes * SLOTS
            step, since = step + 1, since + 1
    assert plan.steps == step
    assert plan.tokens(step) == (trained, sampled)


def test_samples_are_there_before_the_first_step_that_draws_them():
    for plan in PLANS:
        drawing = [i for i in range(plan.steps) if plan.phase(i).samples]
        assert not drawing or plan.refreshes(drawing[0])


def at(step):
    return TrainState(step, {}, (), None, guard.initial())


class Store(Checkpoints):
    """Checkpoints that only remember when they were asked for."""

    def __init__(self, happened):
        self._happened = happened

    def save(self, state, facts):
        assert facts["seconds"] > 0
        self._happened.append(("save", state.step))

    def check(self):
        self._happened.append(("check",))

    def wait(self):
        self._happened.append(("wait",))


def recorded(tmp_path, plan_of, first=0, kept=(), seconds=0.0):
    """What the loop did, in order, with steps that do nothing but count."""
    happened = []

    def step(name):
        def run(state, batch):
            happened.append((name, state.step, int(batch[0])))
            counts = {"skipped": jnp.int32(0), "skipped_in_a_row": jnp.int32(0)}
            return at(state.step + 1), {"loss": jnp.float32(1), "bc": jnp.float32(1)} | counts

        return run

    def refresh(state, tokens, start):
        happened.append(("refresh", state.step, int(tokens[0])))
        return state

    def evaluate(state):
        happened.append(("evaluate", state.step))
        return {"accuracy/greedy": 0.5}

    numbers = [np.full(1, i) for i in range(100)]
    with MetricsLog(tmp_path, kept) as log, StopRequests() as stop_requests:
        data, prompts = numbers, [(i, i) for i in numbers]
        plan, store = plan_of(step, refresh), Store(happened)
        recorder = loop.Recorder(plan, store, log, stop_requests, evaluate, seconds=seconds)
        state, _ = loop.train(plan, at(first), data, prompts, recorder)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    return happened, records, state


def test_what_happens_when(tmp_path):
    def planned(step, refresh):
        phases = phase("bc", 3, step=step("bc")), phase("match", 8, True, step=step("match"))
        return plan(*phases, every=2, log=3, evaluate=5, save=4, refresh=refresh)

    happened, records, state = recorded(tmp_path, planned)
    expected = []
    for i in range(8):
        if i in (3, 5, 7):
            expected.append(("refresh", i, i))
        expected += [("bc" if i < 3 else "match", i, i), ("check",)]
        if i + 1 in (4, 8):
            expected.append(("save", i + 1))
        if i + 1 in (5, 8):
            expected.append(("evaluate", i + 1))
    assert (happened, state.step) == ([*expected, ("wait",)], 8)
    kinds = [(r["kind"], r["step"]) for r in records]
    train, validation = [("train", s) for s in (3, 6, 8)], [("validation", s) for s in (5, 8)]
    assert kinds == [train[0], validation[0], *train[1:], validation[1]]
    assert [r["phase"] for r in records if r["kind"] == "train"] == ["bc", "match", "match"]
    sampled = [r["sampled_tokens"] for r in records if r["kind"] == "train"]
    assert sampled == [0, 2 * ROWS * SLOTS, 3 * ROWS * SLOTS]


def test_time_is_that_of_all_parts_and_speed_that_since_the_last_record(tmp_path, monkeypatch):
    """Each step takes two seconds, and each look eight."""
    now = [1000.0]

    def planned(step, refresh):
        def run(state, batch):
            now[0] += 2.0
            return step("bc")(state, batch)

        return plan(phase("bc", 9, step=run), log=3, evaluate=3, save=50)

    def slow(self, state):
        now[0] += 8.0
        validate(self, state)

    validate = loop.Recorder.validate
    monkeypatch.setattr(loop.Recorder, "validate", slow)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    kept = [{"kind": "validation", "step": 3}]
    _, records, _ = recorded(tmp_path, planned, first=3, kept=kept, seconds=100.0)
    trained = [r for r in records if r["kind"] == "train"]
    assert [r["seconds"] for r in trained] == [100.0 + 6.0, 100.0 + 6.0 + 8.0 + 6.0]
    assert [r["tokens_per_second"] for r in trained] == [3 * 2 * SLOTS / 6.0] * 2


def test_a_run_that_is_done_does_nothing_more(tmp_path):
    def planned(step, refresh):
        return plan(phase("bc", 4, step=step("bc")), refresh=refresh)

    kept = [{"kind": "validation", "step": 4}]
    happened, records, state = recorded(tmp_path, planned, first=4, kept=kept)
    assert (happened, records, state) == ([("wait",)], kept, at(4))


@pytest.mark.parametrize("first", [2, 4])
def test_a_look_that_was_left_is_made_first(tmp_path, first):
    def planned(step, refresh):
        return plan(phase("bc", 4, step=step("bc")), evaluate=2, save=9, refresh=refresh)

    happened, records, _ = recorded(tmp_path, planned, first=first)
    assert happened[0] == ("evaluate", first)
    assert [h for h in happened if h[0] == "evaluate"] == [
        ("evaluate", s) for s in (2, 4)[first // 4 :]
    ]
    assert (records[0]["kind"], records[0]["step"]) == ("validation", first)


def test_the_learning_rate_warms_up_to_its_peak_and_ends_at_its_share():
    config = defaults().optimizer
    config.learning_rate, config.warmup, config.final = 3e-3, 10, 0.2
    rate = learning_rate(config, 50)
    assert [float(rate(i)) for i in (0, 5, 10)] == pytest.approx([0, 1.5e-3, 3e-3])
    assert float(rate(30)) == pytest.approx(3e-3 * (1 + 0.2) / 2)
    assert float(rate(50)) == pytest.approx(0.2 * 3e-3)
    rates = [float(rate(i)) for i in range(10, 51)]
    assert rates == sorted(rates, reverse=True)


def test_the_optimizer_is_clipped_adamw_in_which_matrices_decay():
    """Over steps of the warm-up, the first with a huge gradient, against the equations of the paper."""
    config = defaults().optimizer
    config.learning_rate, config.warmup, config.clip, config.weight_decay = 1e-2, 4, 0.5, 0.3
    rng = np.random.default_rng(0)
    params = {"matrix": rng.normal(size=(3, 2)), "vector": rng.normal(size=2)}
    gradients = [
        {k: size * rng.normal(size=x.shape) for k, x in params.items()} for size in (99, 0.01)
    ]
    optimizer, found = make_optimizer(config, 50), jax.tree.map(jnp.float32, params)
    state, m, v = optimizer.init(found), 0.0, 0.0

    def flat(tree):
        return np.concatenate([tree[k].ravel() for k in ("matrix", "vector")])

    theta, decays = flat(params), np.array([1.0] * 6 + [0.0] * 2)
    for t, gradient in enumerate(gradients, 1):
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, found)
        found = jax.tree.map(jnp.add, found, updates)
        g = flat(gradient)
        g = g * min(1.0, config.clip / np.linalg.norm(g))
        m, v = config.b1 * m + (1 - config.b1) * g, config.b2 * v + (1 - config.b2) * g**2
        scaled = m / (1 - config.b1**t) / (np.sqrt(v / (1 - config.b2**t)) + 1e-8)
        theta = theta - 1e-2 * (t - 1) / 4 * (scaled + config.weight_decay * decays * theta)
    assert flat(found) == pytest.approx(theta, rel=1e-5) and flat(params) != pytest.approx(theta)


@pytest.mark.parametrize("bc_steps", [0, 30])
def test_beta_is_one_until_matching_begins_and_ends_where_asked(bc_steps):
    config = defaults()
    config.optimizer.warmup = 5
    config.train.steps, config.train.bc_steps, config.train.beta_end = 50, bc_steps, 0.3
    beta = make_recipe(config, None, None).beta
    assert [float(beta(i)) for i in range(bc_steps + 1)] == [1.0] * (bc_steps + 1)
    assert float(beta((bc_steps + 50) // 2)) == pytest.approx((1 + 0.3) / 2)
    assert float(beta(50)) == pytest.approx(0.3)
