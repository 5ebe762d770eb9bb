"""Calls the command line in this process, and reads the files that it leaves."""

import contextlib
import json
import pathlib

import pytest

from sequencematch.cli import training
from sequencematch.main import main
from sequencematch.train.profiling import CLOCK
from tests.command_line.shared import shared_programs
from tests.train import runs
from tests.train.runs import STEPS, BatchesWithEvent

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'arithmetic.py'}"
SAVE_EVERY = 8
# The steps are those of the run in tests/train, so that both compile them only once.
TINY = runs.TINY | {
    "noise.eta": 0.3,
    "evaluate.rows": 8,
    "evaluate.max_actions": 8,
    "checkpoint.every": SAVE_EVERY,
}
PREVIOUS_SAVE = STEPS - SAVE_EVERY  # step of the last checkpoint but one
READING_MODES = [["--mode=evaluate"], ["--mode=sample", "--prompt=abc>"]]


def run_command(*args):
    """Calls the command line; returns the exit code. Runs share their programs."""
    with shared_programs():
        return main(["main.py", *map(str, args)])


def read_json(path):
    """The content of a JSON file."""
    return json.loads(path.read_text())


def records(path):
    """The records of a jsonl file, without those fields that depend on the clock."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in CLOCK} for r in lines]


def contents(folder):
    """Path -> content of every file in the folder, None for folders; without what Python compiles."""
    paths = [p for p in sorted(folder.rglob("*")) if "__pycache__" not in p.parts]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def assert_same_run(folder, finished_run):
    """Asserts that a run left the same files as the uninterrupted one, clocks aside."""
    for name in ("metrics.jsonl", "traces.jsonl"):
        assert records(folder / name) == records(finished_run / name)
    whole, other = read_json(finished_run / "summary.json"), read_json(folder / "summary.json")
    for summary in (whole, other):
        del summary["seconds"], summary["speed"], summary["command"]
    assert other == whole


@contextlib.contextmanager
def event_at_step(at, event):
    """Calls `event` in step `at` of every run in this context."""
    data = training.training_data

    def data_with_event(parts):
        episodes, prompts = data(parts)
        return BatchesWithEvent(episodes, at, event), prompts

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(training, "training_data", data_with_event)
        yield
