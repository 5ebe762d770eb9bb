"""A run that is cut, or asked to leave, and resumed is bit for bit the run that was not."""

import json
import os
import signal

import pytest

from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.train.stop_requests import Interrupted
from tests.train.events import scalars
from tests.train.runs import (
    CLONING,
    LOOKS,
    STEPS,
    At,
    Crash,
    ask,
    bits,
    crash,
    looked,
    records,
    train,
)


@pytest.mark.parametrize("saved", [2, CLONING, 7, 9, 23])
def test_a_resumed_run_is_the_uninterrupted_one(parts, whole, tmp_path, saved):
    # One more step than was saved: its record must not be there twice.
    data = At(parts.episodes, saved + 1 if saved < STEPS - 1 else saved, crash)
    with pytest.raises(Crash):
        train(parts, tmp_path, save_every=saved, data=data)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    state = train(parts, tmp_path, save_every=saved, resume=True)
    assert bits(state) == bits(whole[1])
    assert records(tmp_path) == records(whole[0])
    assert scalars(tmp_path) == scalars(whole[0])


def test_a_run_may_be_cut_twice(parts, whole, tmp_path):
    for at, resume in ((3, False), (9, True)):
        with pytest.raises(Crash):
            data = At(parts.episodes, at, crash)
            train(parts, tmp_path, save_every=2, data=data, resume=resume)
    state = train(parts, tmp_path, save_every=5, resume=True)
    assert bits(state) == bits(whole[1])
    assert records(tmp_path) == records(whole[0])


def test_every_step_and_every_look_is_recorded_once(whole):
    found = [(r["kind"], r["step"]) for r in records(whole[0])]
    looks = [("validation", step) for step in LOOKS]
    assert sorted(found) == sorted([("train", step + 1) for step in range(STEPS)] + looks)


def test_tensorboard_shows_the_records_and_nothing_else(whole):
    lines = [json.loads(line) for line in (whole[0] / "metrics.jsonl").open()]
    numbers = [
        (f"{r['kind']}/{name}", r["step"], pytest.approx(x))
        for r in lines
        for name, x in r.items()
        if isinstance(x, int | float)
        and name not in ("step", "time", "seconds", "tokens_per_second")
    ]
    assert scalars(whole[0]) == numbers


# Asked to leave: at once, with everything saved, wherever it is.


def asked(parts, step, where, number):
    """What to hand to `train` so that a signal comes at a place of a step."""
    if where == "data":
        return {"data": At(parts.episodes, step, lambda: ask(number))}
    if where == "sampling":
        return {"prompts": At(parts.prompts, step, lambda: ask(number))}

    def look(state):
        if int(state.step) == step:
            ask(number)
            raise AssertionError("a look at the validation set is left at once")
        return looked(state)

    return {"look": look}


PLACES = [
    (0, "data"),
    (CLONING - 1, "data"),
    (8, "data"),
    (STEPS - 1, "data"),
    (CLONING, "sampling"),
    (10, "sampling"),
    *((step, "look") for step in LOOKS),
]


@pytest.mark.parametrize(("step", "where"), PLACES)
def test_asked_to_leave_it_saves_and_goes_on_as_if_never_asked(parts, whole, tmp_path, step, where):
    number = signal.SIGTERM if step % 2 else signal.SIGINT
    with pytest.raises(Interrupted, match=number.name):
        train(parts, tmp_path, save_every=4, **asked(parts, step, where, number))
    # A step is never left half done; when the first batch is read, the first has not begun.
    reached = step if where == "look" or step == 0 else step + 1
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(parts.run.like).state.step) == reached
    state = train(parts, tmp_path, save_every=4, resume=True)
    assert bits(state) == bits(whole[1])
    assert records(tmp_path) == records(whole[0])


def test_a_look_that_fails_loses_no_step(parts, whole, tmp_path):
    def look(state):
        if int(state.step) == LOOKS[0]:
            raise MemoryError
        return looked(state)

    with pytest.raises(MemoryError):
        train(parts, tmp_path, save_every=STEPS, look=look)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(parts.run.like).state.step) == LOOKS[0]
    state = train(parts, tmp_path, save_every=STEPS, resume=True)
    assert bits(state) == bits(whole[1]) and records(tmp_path) == records(whole[0])


def test_the_records_that_lead_to_a_checkpoint_are_on_disk_before_it(parts, tmp_path, monkeypatch):
    """Should the power fail after it: going on would not write them again."""
    save, fsync, path = Checkpoints.save, os.fsync, tmp_path / "metrics.jsonl"
    on_disk, saved = [""], []

    def syncing(descriptor):
        fsync(descriptor)
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            on_disk.append(path.read_text())

    def saving(self, state, facts):
        saved.append(on_disk[-1] == path.read_text())
        assert len(on_disk[-1].splitlines()) == facts["records"]
        save(self, state, facts)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Checkpoints, "save", saving)
    train(parts, tmp_path, save_every=8)
    assert saved == [True] * 3


def test_a_signal_in_the_middle_of_a_save_waits(parts, whole, tmp_path, monkeypatch):
    save, once = Checkpoints.save, [6]

    def interrupted(self, state, facts):
        if int(state.step) in once:
            once.clear()
            ask()
        save(self, state, facts)

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    with pytest.raises(Interrupted):
        train(parts, tmp_path, save_every=3)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(parts.run.like).state.step) == 6
    assert bits(train(parts, tmp_path, save_every=3, resume=True)) == bits(whole[1])
    assert records(tmp_path) == records(whole[0])
