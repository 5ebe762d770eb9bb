"""What the loop does at which step, with steps that only count."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.metrics_log import MetricsLog
from sequencematch.train import guard, loop
from sequencematch.train.plan import Plan
from sequencematch.train.state import TrainState
from sequencematch.train.stop_requests import StopRequests
from tests.train.plans import ROWS, SLOTS, make_phase, make_plan


def state_at(step):
    return TrainState(step, {}, (), None, guard.init())


class CheckpointCalls(Checkpoints):
    """Records the calls of a `Checkpoints` and saves nothing."""

    def __init__(self, calls):
        self._calls = calls

    def save(self, state, facts):
        assert facts["seconds"] > 0
        self._calls.append(("save", state.step))

    def check(self):
        self._calls.append(("check",))

    def wait(self):
        self._calls.append(("wait",))


def run_loop(tmp_path, make, first=0, earlier_records=(), seconds=0.0, figure=0.5, **options):
    """Runs the loop with steps that only count.

    Args:
      tmp_path: where metrics.jsonl is written.
      make: (name -> step, refresh) -> the plan.
      first: step of the first state.
      earlier_records: records of an earlier part of the run.
      seconds: its duration.
      figure: of each validation.
      options: more of those of a `Recorder`.

    Returns:
      (calls in order, records of metrics.jsonl, last state).
    """
    calls = []

    def step(name):
        def run(state, batch):
            calls.append((name, state.step, int(batch[0])))
            counts = {"skipped": jnp.int32(0), "skipped_in_a_row": jnp.int32(0)}
            return state_at(state.step + 1), {"loss": jnp.float32(1), "bc": jnp.float32(1)} | counts

        return run

    def refresh(state, tokens, start):
        calls.append(("refresh", state.step, int(tokens[0])))
        return state

    def evaluate(state):
        calls.append(("evaluate", state.step))
        return {"accuracy/greedy": figure}

    numbers = [np.full(1, i) for i in range(100)]
    with MetricsLog(tmp_path, earlier_records) as log, StopRequests() as stop_requests:
        data, prompts = numbers, [(i, i) for i in numbers]
        plan, checkpoints = make(step, refresh), CheckpointCalls(calls)
        options |= {"seconds": seconds}
        recorder = loop.Recorder(plan, checkpoints, log, stop_requests, evaluate, **options)
        state, _ = loop.train(plan, state_at(first), data, prompts, recorder)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    return calls, records, state


def test_steps_refreshes_saves_and_validations_happen_when_they_are_due(tmp_path):
    def make(step, refresh):
        phases = (
            make_phase("bc", 3, step=step("bc")),
            make_phase("match", 8, True, step=step("match")),
        )
        return make_plan(*phases, every=2, log=3, evaluate=5, save=4, refresh=refresh)

    calls, records, state = run_loop(tmp_path, make)
    expected = []
    for i in range(8):
        if i in (3, 5, 7):
            expected.append(("refresh", i, i))
        expected += [("bc" if i < 3 else "match", i, i), ("check",)]
        if i + 1 in (4, 8):
            expected.append(("save", i + 1))
        if i + 1 in (5, 8):
            expected.append(("evaluate", i + 1))
    assert (calls, state.step) == ([*expected, ("wait",)], 8)
    kinds = [(r["kind"], r["step"]) for r in records]
    train, validation = [("train", s) for s in (3, 6, 8)], [("validation", s) for s in (5, 8)]
    assert kinds == [train[0], validation[0], *train[1:], validation[1]]
    assert [r["phase"] for r in records if r["kind"] == "train"] == ["bc", "match", "match"]
    sampled = [r["sampled_tokens"] for r in records if r["kind"] == "train"]
    assert sampled == [0, 2 * ROWS * SLOTS, 3 * ROWS * SLOTS]


def test_time_is_of_all_parts_and_speed_since_the_last_record_or_validation(tmp_path, monkeypatch):
    """Each step takes two seconds, each validation eight."""
    now = [1000.0]

    def make(step, refresh):
        def run(state, batch):
            now[0] += 2.0
            return step("bc")(state, batch)

        return make_plan(make_phase("bc", 9, step=run), log=3, evaluate=3, save=50)

    def validate_slowly(self, state):
        now[0] += 8.0
        validate(self, state)

    validate = loop.Recorder.validate
    monkeypatch.setattr(loop.Recorder, "validate", validate_slowly)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    earlier = [{"kind": "validation", "step": 3}]
    _, records, _ = run_loop(tmp_path, make, first=3, earlier_records=earlier, seconds=100.0)
    trained = [r for r in records if r["kind"] == "train"]
    assert [r["seconds"] for r in trained] == [100.0 + 6.0, 100.0 + 6.0 + 8.0 + 6.0]
    assert [r["tokens_per_second"] for r in trained] == [3 * 2 * SLOTS / 6.0] * 2


def test_time_in_sampling_data_and_checkpoints_is_told_apart(tmp_path, monkeypatch):
    """A batch takes 1 second, a refresh 4, a step 2, a save 8; a record every 2 steps."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def take(seconds, function):
        def run(*args):
            now[0] += seconds
            return function(*args)

        return run

    def make(step, refresh):
        phase = make_phase("match", 4, True, step=take(2.0, step("match")), flops=1000)
        return make_plan(phase, every=2, log=2, evaluate=9, save=2, refresh=take(4.0, refresh))

    monkeypatch.setattr(CheckpointCalls, "save", take(8.0, lambda *_: None))
    monkeypatch.setattr(Plan, "place", take(1.0, lambda self, batch: batch))
    _, records, _ = run_loop(tmp_path, make)
    first, second = (r for r in records if r["kind"] == "train")
    # Compiling reads a batch, too. Of the stretches one has a refresh and two steps, the second a save.
    for record, saves in ((first, 0), (second, 1)):
        seconds = 3 * 1 + 4 + 2 * 2 + saves * 8
        assert record["tokens_per_second"] == 2 * 2 * SLOTS / seconds
        assert record["sampled_tokens_per_second"] == ROWS * SLOTS / 4
        assert record["flops_per_second"] == 2 * 1000 / (3 * 1 + 2 * 2)
        assert "mfu" not in record  # of a CPU
    assert second["time/sampling"] == 4 / 19 and second["time/data"] == 3 / 19
    assert second["time/checkpoints"] == 8 / 19 and first["time/checkpoints"] == 0


def test_time_in_removing_the_former_best_is_that_of_checkpoints(tmp_path, monkeypatch):
    """A step takes 1 second, and to keep the best of step 2 takes 30."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def make(step, refresh):
        def run(*args):
            now[0] += 1.0
            return step("bc")(*args)

        phase = make_phase("bc", 4, step=run, flops=1000)
        return make_plan(phase, log=2, evaluate=2, save=2, refresh=refresh)

    def keep_best(self, step):
        now[0] += 30.0 * (step == 2)

    monkeypatch.setattr(CheckpointCalls, "keep_best", keep_best)
    _, records, _ = run_loop(tmp_path, make, keep_best=True)
    assert [r["flops_per_second"] for r in records if r["kind"] == "train"] == [1000.0] * 2


@pytest.mark.parametrize(("spent", "first"), [({}, 3), ({"from": 1.0, "all": 5.0}, 1)])
def test_speed_is_of_the_parts_that_were_measured(tmp_path, spent, first):
    """Older versions did not measure; a run that they began is measured from where it resumes."""
    plan = make_plan(make_phase("bc", 4), log=9)
    with MetricsLog(tmp_path) as log, StopRequests() as stop_requests:
        checkpoints = CheckpointCalls([])
        recorder = loop.Recorder(plan, checkpoints, log, stop_requests, dict, spent=spent)
        with recorder.session(3):
            found = recorder.speed(4)
    assert found["from_step"] == first
    running = found["shares"]["steps"] and 1 / found["tokens_per_second"] * 2 * SLOTS * (4 - first)
    assert running >= spent.get("all", 0.0)


def test_a_finished_run_does_nothing(tmp_path):
    def make(step, refresh):
        return make_plan(make_phase("bc", 4, step=step("bc")), refresh=refresh)

    earlier = [{"kind": "validation", "step": 4}]
    calls, records, state = run_loop(tmp_path, make, first=4, earlier_records=earlier)
    assert (calls, records, state) == ([("wait",)], earlier, state_at(4))


def test_a_figure_that_is_not_defined_is_never_the_best(tmp_path):
    """As the diversity of answers that are all empty."""

    def make(step, refresh):
        return make_plan(make_phase("bc", 4, step=step("bc")), evaluate=2, save=2, refresh=refresh)

    _, records, _ = run_loop(tmp_path, make, figure=None, keep_best=True)
    found = [r for r in records if r["kind"] == "validation"]
    assert [r["accuracy/greedy"] for r in found] == [None, None]
    assert not any("best_step" in r for r in found)


@pytest.mark.parametrize("first", [2, 4])
def test_a_resumed_run_first_makes_up_for_a_missed_validation(tmp_path, first):
    def make(step, refresh):
        return make_plan(make_phase("bc", 4, step=step("bc")), evaluate=2, save=9, refresh=refresh)

    calls, records, _ = run_loop(tmp_path, make, first=first)
    assert calls[0] == ("evaluate", first)
    assert [h for h in calls if h[0] == "evaluate"] == [
        ("evaluate", s) for s in (2, 4)[first // 4 :]
    ]
    assert (records[0]["kind"], records[0]["step"]) == ("validation", first)
