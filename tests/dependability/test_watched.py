"""The moment of the main job is recognised by its stack and its files."""

import importlib
import inspect
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


def test_every_measurement_needs_a_new_folder(tmp_path):
    assert str(watched.new_folder("x", None)).startswith("runs/x-2")
    with pytest.raises(FileExistsError, match=f"--folder={tmp_path} is there already"):
        watched.new_folder("x", str(tmp_path))
