"""The crash test's own eyes: the least difference between two runs is found, clocks are not."""

import importlib
import inspect
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from tensorboardX import SummaryWriter

from tests.dependability import crash_test, same_run, watched

RECORDS = [
    {"kind": kind, "step": step, "loss": 1 / step, "phase": "bc", "seconds": 2.0 * step}
    for step in (1, 2, 3)
    for kind in ("train", "validation")
]


def save(run: Path, params: np.ndarray, step: int = 3) -> None:
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    state = {"step": np.int32(step), "params": {"kernel": params, "bias": np.zeros(3)}}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(run / "checkpoints" / str(step) / "state", state)


def tell(run: Path, records: list[dict]) -> None:
    """metrics.jsonl and TensorBoard's events."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run / "metrics.jsonl").write_text(text)
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    board(run, records)


def board(run: Path, records: list[dict]) -> None:
    with SummaryWriter(str(run / "tensorboard")) as writer:
        for record in records:
            for name in ("loss", "seconds"):
                writer.add_scalar(f"{record['kind']}/{name}", record[name], record["step"])


PARAMS = np.linspace(0.1, 1.0, 12, dtype=np.float32).reshape(3, 4)
SUMMARY = {"command": "python", "seconds": {"train": 1.0}, "test": {"greedy": {"right": 3}}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder as a run leaves it."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    (run / "traces.jsonl").write_text('{"text": "12"}\n{"text": "13"}\n')
    tell(run, RECORDS)
    save(run, PARAMS)
    return run


@pytest.fixture
def other(whole, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(whole, tmp_path / "other")


def flipped(run: Path) -> None:
    """The last bit of one number."""
    bits = PARAMS.copy()
    bits.view(np.uint32)[1, 2] ^= 1
    save(run, bits)


def summed(run: Path, **changes) -> None:
    (run / "summary.json").write_text(json.dumps(SUMMARY | changes))


def swapped(records: list[dict]) -> list[dict]:
    return [records[1], records[0], *records[2:]]


def without_the_last_event(run: Path) -> None:
    shutil.rmtree(run / "tensorboard")
    board(run, RECORDS[:-1])


def torn(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr')


def closer(record: dict) -> dict:
    return record | {"loss": np.nextafter(record["loss"], 1.0)}


DIFFERENT: dict[str, tuple[Callable, str]] = {
    "a bit": (flipped, "arrays: step 3['params']['kernel']"),
    "a negative zero": (lambda run: save(run, PARAMS * -0.0), "arrays: "),
    "another type": (lambda run: save(run, PARAMS.astype(np.float64)), "arrays: "),
    "another step": (lambda run: save(run, PARAMS, 4), "files: checkpoints/"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "checkpoints" / "3"), "arrays: "),
    "a line twice": (lambda run: tell(run, [*RECORDS, RECORDS[-1]]), "metrics.jsonl: line 7"),
    "a line too few": (lambda run: tell(run, RECORDS[:-1]), "metrics.jsonl: line 6"),
    "lines in another order": (lambda run: tell(run, swapped(RECORDS)), "metrics.jsonl: line 1"),
    "a last digit": (
        lambda run: tell(run, [*RECORDS[:-1], closer(RECORDS[-1])]),
        "metrics.jsonl: line 6",
    ),
    "an event too few": (without_the_last_event, "TensorBoard of other: "),
    "an event twice": (lambda run: board(run, RECORDS[-1:]), "TensorBoard of other: "),
    "a figure": (
        lambda run: summed(run, test={"greedy": {"right": 4}}),
        "summary.json: test.greedy",
    ),
    "no summary": (lambda run: (run / "summary.json").unlink(), "summary.json: "),
    "a trace": (
        lambda run: (run / "traces.jsonl").write_text('{"text": "12"}\n'),
        "traces.jsonl: ",
    ),
    "a file left over": (
        lambda run: (run / "metrics.jsonl.tmp").touch(),
        "files: metrics.jsonl.tmp",
    ),
    "a configuration": (lambda run: (run / "config.json").write_text("{ }"), "config.json: "),
}


@pytest.mark.parametrize("change", DIFFERENT)
def test_the_least_difference_is_named(whole, other, change):
    assert same_run.differences(other, whole) == []
    alter, said = DIFFERENT[change]
    alter(other)
    for pair in ((other, whole), (whole, other)):
        found = same_run.differences(*pair)
        assert any(line.startswith(said) for line in found), found


def test_a_line_cut_short_is_no_record(whole, other):
    torn(other)
    with pytest.raises(ValueError):
        same_run.scalars(other)
    assert same_run.lines(other, "metrics.jsonl") != same_run.lines(whole, "metrics.jsonl")


def test_clocks_may_differ(whole, other):
    tell(other, [record | {"seconds": 7.0} for record in RECORDS])
    summed(other, command="python --resume", seconds={"train": 9.0})
    assert same_run.differences(other, whole) == []


def test_the_functions_that_moments_are_known_by_are_there():
    sources = {path.stem: path.read_text() for path in Path("sequencematch").rglob("*.py")}
    sources["pjit"] = inspect.getsource(importlib.import_module("jax._src.pjit"))
    sources["__main__"] = inspect.getsource(watched)
    for name, sign in watched.MOMENTS[:-1]:
        module, _, function = sign.strip().partition(" ")
        there = f"def {function}(" in sources[module] if function else sign in sources["loop"]
        assert there, name


def test_who_is_asked_to_leave_must_save_unless_nobody_listens_yet(tmp_path):
    asked, killed = (
        crash_test.Bench(tmp_path, crash_test.JOB, 1, number)
        for number in (signal.SIGTERM, signal.SIGKILL)
    )
    assert asked.codes("step") == asked.codes("save") == {75}
    assert asked.codes("start") == {75, -signal.SIGTERM}
    assert killed.codes("step") == killed.codes("start") == {-signal.SIGKILL}
    assert asked.codes(None) == killed.codes(None) == {0}
    for step in (0, 25, 40, 475, 500):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    asked.forget(tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"25", "475", "500"}


class Deaf:
    """A job that goes on as if nothing had been asked."""

    def __init__(self, stack):
        self.process, self._stack = self, stack

    def note(self):
        return watched.Note(self._stack)

    def poll(self):
        return None

    def send_signal(self, number):
        pass

    def wait(self, timeout):
        return 0

    def last_words(self):
        return "done"


def test_a_job_that_does_not_hear_is_found_out(tmp_path, monkeypatch):
    bench = crash_test.Bench(tmp_path, crash_test.JOB, 1, signal.SIGTERM)

    def session(*stack):
        monkeypatch.setattr(bench, "start", lambda run: Deaf(stack))
        return bench.session(tmp_path / "run", "anywhere", lambda *_: True)

    with pytest.raises(RuntimeError, match="step: exit code 0\ndone"):
        session("loop train x")
    assert session("judge publish x").hit is None  # it was as good as done


def test_what_is_measured_is_measured_anew(tmp_path):
    assert str(watched.new_folder("x", None)).startswith("runs/x-2")
    with pytest.raises(FileExistsError, match=f"--folder={tmp_path} is there already"):
        watched.new_folder("x", str(tmp_path))


def test_a_kill_waits_for_its_moment(tmp_path):
    stack = ["checkpoint save self._manager.save(", "loop train checkpoints.save(state, ..."]
    assert watched.moment(watched.Note(stack), tmp_path) == "save"
    assert watched.moment(watched.Note(stack[1:]), tmp_path) == "step"
    (tmp_path / "checkpoints" / "15.orbax-checkpoint-tmp").mkdir(parents=True)
    assert watched.moment(watched.Note(stack[1:]), tmp_path) == "save"
    trigger = crash_test.Trigger("sampling", 1.0, wait=True)
    assert not trigger(2.0, "sampling", False)
    assert not trigger(2.1, "step", True)
    assert trigger(2.2, "sampling", True)
    assert not crash_test.Trigger(crash_test.NEVER, 0.0, wait=False)(9.0, "save", True)
