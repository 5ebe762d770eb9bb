"""The moment of the main job is recognised by its stack and its files."""

import importlib
import inspect
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.dependability import watched


def test_every_moment_names_a_function_or_line_that_exists():
    sources = {path.stem: path.read_text() for path in Path("sequencematch").rglob("*.py")}
    sources["pjit"] = inspect.getsource(importlib.import_module("jax._src.pjit"))
    sources["__main__"] = inspect.getsource(watched)
    for name, sign in watched.MOMENTS[:-1]:
        module, _, function = sign.strip().partition(" ")
        there = f"def {function}(" in sources[module] if function else sign in sources["loop"]
        assert there, name


def test_the_innermost_call_or_an_unfinished_save_decides_the_moment(tmp_path):
    stack = ["checkpoint save self._manager.save(", "loop train checkpoints.save(state, ..."]
    assert watched.moment(watched.Note(stack), tmp_path) == "save"
    assert watched.moment(watched.Note(stack[1:]), tmp_path) == "step"
    (tmp_path / "checkpoints" / "15.orbax-checkpoint-tmp").mkdir(parents=True)
    assert watched.moment(watched.Note(stack[1:]), tmp_path) == "save"


def test_another_thread_learns_what_the_main_thread_does(monkeypatch):
    monkeypatch.setattr(watched, "MODULES", (__name__,))
    before = signal.getsignal(signal.SIGURG)
    try:
        watch = watched._Watch()
        asking = threading.Timer(0.1, watch.ask)
        asking.start()
        work_until_seen(watch)
        asking.join()
    finally:
        signal.signal(signal.SIGURG, before)


def work_until_seen(watch):
    """Works in Python until `watch` has seen it, at most ten seconds."""
    end, sign = time.monotonic() + 10, "test_watched work_until_seen "
    while not any(line.startswith(sign) for line in watch.stack):
        assert time.monotonic() < end, watch.stack


def test_every_measurement_needs_a_new_folder(tmp_path):
    assert str(watched.new_folder("x", None)).startswith("runs/x-2")
    with pytest.raises(FileExistsError, match=f"--folder={tmp_path} is there already"):
        watched.new_folder("x", str(tmp_path))
