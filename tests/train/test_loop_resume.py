"""A run that is killed or asked to stop, and resumed, equals the uninterrupted run bit for bit."""

import json
import os
import signal

import numpy as np
import pytest

from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.train.profiling import CLOCK
from sequencematch.train.stop_requests import Interrupted
from tests.marks import exhaustive, stress
from tests.storage.folders import saved_steps
from tests.train.events import scalars
from tests.train.runs import (
    CLONING,
    STEPS,
    VALIDATIONS,
    BatchesWithEvent,
    Crash,
    bits,
    crash,
    records,
    request_stop,
    step_as_accuracy,
    train,
)


@pytest.mark.parametrize("saved", [stress(3), stress(CLONING), 7, stress(9), stress(23)])
def test_a_run_resumed_after_a_crash_equals_the_uninterrupted_one(
    tiny_run, whole_run, tmp_path, saved
):
    # One step after the save is recorded too: its record must not appear twice.
    data = BatchesWithEvent(tiny_run.episodes, saved + 1 if saved < STEPS - 1 else saved, crash)
    with pytest.raises(Crash):
        train(tiny_run, tmp_path, save_every=saved, data=data)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    state = train(tiny_run, tmp_path, save_every=saved, resume=True)
    assert bits(state) == bits(whole_run[1])
    assert records(tmp_path) == records(whole_run[0])
    assert scalars(tmp_path) == scalars(whole_run[0])


@pytest.mark.stress
def test_a_run_resumed_twice_equals_the_uninterrupted_one(tiny_run, whole_run, tmp_path):
    for at, resume in ((3, False), (9, True)):
        with pytest.raises(Crash):
            data = BatchesWithEvent(tiny_run.episodes, at, crash)
            train(tiny_run, tmp_path, save_every=2, data=data, resume=resume)
    state = train(tiny_run, tmp_path, save_every=5, resume=True)
    assert bits(state) == bits(whole_run[1])
    assert records(tmp_path) == records(whole_run[0])


def test_every_step_and_every_validation_is_recorded_once(whole_run):
    found = [(r["kind"], r["step"]) for r in records(whole_run[0])]
    validations = [("validation", step) for step in VALIDATIONS]
    assert sorted(found) == sorted([("train", step + 1) for step in range(STEPS)] + validations)


def test_tensorboard_holds_exactly_the_records(whole_run):
    lines = [json.loads(line) for line in (whole_run[0] / "metrics.jsonl").open()]
    numbers = [
        (f"{r['kind']}/{name}", r["step"], pytest.approx(x))
        for r in lines
        for name, x in r.items()
        if isinstance(x, int | float) and name not in ("step", *CLOCK)
    ]
    assert scalars(whole_run[0]) == numbers


# Stop requests: the state is saved, and the run resumes, wherever the request comes.


def signal_at(tiny_run, step, where, number):
    """Arguments of `train` for which a signal comes at a place of a step."""
    if where == "data":
        return {"data": BatchesWithEvent(tiny_run.episodes, step, lambda: request_stop(number))}
    if where == "sampling":
        return {"prompts": BatchesWithEvent(tiny_run.prompts, step, lambda: request_stop(number))}

    def evaluate(state):
        if int(state.step) == step:
            request_stop(number)
            raise AssertionError("a request must end a validation at once")
        return step_as_accuracy(state)

    return {"evaluate": evaluate}


PLACES = [
    stress(0, "data"),
    *(exhaustive(step, "data") for step in (CLONING - 1, 8, STEPS - 1)),
    exhaustive(CLONING, "sampling"),
    stress(10, "sampling"),
    *(exhaustive(step, "validation") for step in VALIDATIONS),
]


@pytest.mark.parametrize(("step", "where"), PLACES)
def test_a_run_that_was_asked_to_stop_resumes_as_if_it_was_not(
    tiny_run, whole_run, tmp_path, step, where
):
    number = signal.SIGTERM if step % 2 else signal.SIGINT
    with pytest.raises(Interrupted, match=number.name):
        train(tiny_run, tmp_path, save_every=4, **signal_at(tiny_run, step, where, number))
    # A step that has begun is finished. Reading the first batch is part of compiling, not of a step.
    reached = step if where == "validation" or step == 0 else step + 1
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(tiny_run.parts.like).state.step) == reached
    state = train(tiny_run, tmp_path, save_every=4, resume=True)
    assert bits(state) == bits(whole_run[1])
    assert records(tmp_path) == records(whole_run[0])


@pytest.mark.stress
def test_a_failed_validation_loses_no_step(tiny_run, whole_run, tmp_path):
    def evaluate(state):
        if int(state.step) == VALIDATIONS[0]:
            raise MemoryError
        return step_as_accuracy(state)

    with pytest.raises(MemoryError):
        train(tiny_run, tmp_path, save_every=STEPS, evaluate=evaluate)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(tiny_run.parts.like).state.step) == VALIDATIONS[0]
    state = train(tiny_run, tmp_path, save_every=STEPS, resume=True)
    assert bits(state) == bits(whole_run[1]) and records(tmp_path) == records(whole_run[0])


@pytest.mark.stress
def test_the_records_before_a_checkpoint_are_on_disk_before_it(tiny_run, tmp_path, monkeypatch):
    """After a power failure, the resumed run would not write them again."""
    save, fsync, path = Checkpoints.save, os.fsync, tmp_path / "metrics.jsonl"
    on_disk, saved = [""], []

    def note_and_sync(descriptor):
        fsync(descriptor)
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            on_disk.append(path.read_text())

    def check_and_save(self, state, facts):
        saved.append(on_disk[-1] == path.read_text())
        assert len(on_disk[-1].splitlines()) == facts["records"]
        save(self, state, facts)

    monkeypatch.setattr(os, "fsync", note_and_sync)
    monkeypatch.setattr(Checkpoints, "save", check_and_save)
    train(tiny_run, tmp_path, save_every=8)
    assert saved == [True] * 3


@pytest.mark.stress
def test_a_signal_during_a_save_waits(tiny_run, whole_run, tmp_path, monkeypatch):
    save, once = Checkpoints.save, [6]

    def request_and_save(self, state, facts):
        if int(state.step) in once:
            once.clear()
            request_stop()
        save(self, state, facts)

    monkeypatch.setattr(Checkpoints, "save", request_and_save)
    with pytest.raises(Interrupted):
        train(tiny_run, tmp_path, save_every=3)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(tiny_run.parts.like).state.step) == 6
    assert bits(train(tiny_run, tmp_path, save_every=3, resume=True)) == bits(whole_run[1])
    assert records(tmp_path) == records(whole_run[0])


FIGURES = {3: 0.1, 6: 0.7, 9: 0.5, 12: 0.7, 15: 0.2, 18: 0.8, 21: float("nan"), 24: 0.3}
LATE, EARLY = FIGURES, FIGURES | {18: 0.6}


@pytest.mark.parametrize(
    ("figures", "at"),  # the run is killed before the best step, and after it
    [
        stress(LATE, 8),
        *(exhaustive(LATE, at) for at in (4, 14, 20)),
        stress(EARLY, 14),
        *(exhaustive(EARLY, at) for at in (4, 8, 20)),
    ],
)
def test_which_checkpoints_remain_is_a_function_of_the_run(tiny_run, tmp_path, figures, at):
    """The newest and the best, however often the run is killed; of equal ones the first."""
    tiny_run = tiny_run._replace(plan=tiny_run.plan._replace(evaluate_every=3))
    judge = {"evaluate": lambda state: {"accuracy/greedy": figures[int(state.step)]}}
    options = {"save_every": 3, "keep": 1, "keep_best": True} | judge
    with pytest.raises(Crash):
        train(tiny_run, tmp_path, **options, data=BatchesWithEvent(tiny_run.episodes, at, crash))
    assert saved_steps(tmp_path)[-1] == at // 3 * 3
    train(tiny_run, tmp_path, **options, resume=True)
    best = max((step for step in figures), key=lambda step: np.nan_to_num(figures[step]))
    assert saved_steps(tmp_path) == [best, STEPS]


@pytest.mark.stress
def test_the_best_checkpoint_remains_when_other_steps_are_saved_from_now_on(tiny_run, tmp_path):
    falls = {"evaluate": lambda state: {"accuracy/greedy": -float(state.step)}}
    options = {"keep": 1, "keep_best": True} | falls
    tiny_run = tiny_run._replace(plan=tiny_run.plan._replace(evaluate_every=3))
    with pytest.raises(Crash):
        data = BatchesWithEvent(tiny_run.episodes, 8, crash)
        train(tiny_run, tmp_path, **options, save_every=3, data=data)
    assert saved_steps(tmp_path) == [3, 6]
    train(tiny_run, tmp_path, **options, save_every=4, resume=True)
    assert saved_steps(tmp_path) == [3, STEPS]


@pytest.mark.stress
def test_a_step_that_only_an_interruption_saved_does_not_compete(tiny_run, tmp_path):
    """Validations at 9 and 18, saves at 8 and 16: an interruption at 9 saves what the run would not."""
    options = {"save_every": 8, "keep": 1, "keep_best": True}
    falls = {"evaluate": lambda state: {"accuracy/greedy": -float(state.step)}}
    with pytest.raises(Interrupted):
        data = BatchesWithEvent(tiny_run.episodes, 8, request_stop)
        train(tiny_run, tmp_path, **options, **falls, data=data)
    assert saved_steps(tmp_path) == [9]
    train(tiny_run, tmp_path, **options, **falls, resume=True)
    assert saved_steps(tmp_path) == [STEPS]
