"""The command line, called in this process, and what it leaves."""

import contextlib
import json
import pathlib

import pytest

from sequencematch.cli import training
from sequencematch.main import main
from tests.train import runs
from tests.train.runs import STEPS, At

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'arithmetic.py'}"
SAVED = 8
# The run of tests/train, so that its steps are compiled for all of them once.
TINY = runs.TINY | {
    "noise.eta": 0.3,
    "evaluate.rows": 8,
    "evaluate.max_actions": 8,
    "checkpoint.every": SAVED,
}
LAST = STEPS - SAVED  # step of the checkpoint before the last
READING = [["--mode=evaluate"], ["--mode=sample", "--prompt=abc>"]]


def command(*args):
    """The exit code."""
    return main(["main.py", *map(str, args)])


def read(path):
    """A JSON file."""
    return json.loads(path.read_text())


def records(path):
    """Lines of a jsonl file, without what the clock says."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second", "time")}
        for r in lines
    ]


def contents(folder):
    """Every file and folder below, and what is in it."""
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def same(folder, finished):
    """Asserts that a run left what the uninterrupted one left, but for the clock."""
    for name in ("metrics.jsonl", "traces.jsonl"):
        assert records(folder / name) == records(finished / name)
    whole, other = read(finished / "summary.json"), read(folder / "summary.json")
    for summary in (whole, other):
        del summary["seconds"], summary["command"]
    assert other == whole


@contextlib.contextmanager
def happening(at, happens):
    """Something happens in step `at` of every run inside."""
    data = training.training_data

    def watched(run):
        episodes, prompts = data(run)
        return At(episodes, at, happens), prompts

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(training, "training_data", watched)
        yield
