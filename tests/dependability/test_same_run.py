"""The smallest difference between two runs is found; different clocks are none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from tensorboardX import SummaryWriter

from tests.dependability import same_run

RECORDS = [
    {"kind": kind, "step": step, "loss": 1 / step, "phase": "bc", "seconds": 2.0 * step}
    for step in (1, 2, 3)
    for kind in ("train", "validation")
]


def save(run: Path, params: np.ndarray, step: int = 3) -> None:
    """Writes the only checkpoint of a run."""
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    state = {"step": np.int32(step), "params": {"kernel": params, "bias": np.zeros(3)}}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(run / "checkpoints" / str(step) / "state", state)


def write_metrics(run: Path, records: list[dict]) -> None:
    """Writes metrics.jsonl and TensorBoard's events."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run / "metrics.jsonl").write_text(text)
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    add_events(run, records)


def add_events(run: Path, records: list[dict]) -> None:
    """Adds a file of TensorBoard's events."""
    with SummaryWriter(str(run / "tensorboard")) as writer:
        for record in records:
            for name in ("loss", "seconds"):
                writer.add_scalar(f"{record['kind']}/{name}", record[name], record["step"])


PARAMS = np.linspace(0.1, 1.0, 12, dtype=np.float32).reshape(3, 4)
SUMMARY = {"command": "python", "seconds": {"train": 1.0}, "test": {"greedy": {"right": 3}}}


@pytest.fixture(scope="module")
def reference_run(tmp_path_factory):
    """A work directory as a run leaves it; read only."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    (run / "traces.jsonl").write_text('{"text": "12"}\n{"text": "13"}\n')
    write_metrics(run, RECORDS)
    save(run, PARAMS)
    return run


@pytest.fixture
def other_run(reference_run, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(reference_run, tmp_path / "other")


def flip_bit(run: Path) -> None:
    """Flips the last bit of one number in the checkpoint."""
    bits = PARAMS.copy()
    bits.view(np.uint32)[1, 2] ^= 1
    save(run, bits)


def write_summary(run: Path, **changes) -> None:
    (run / "summary.json").write_text(json.dumps(SUMMARY | changes))


def swap_first_two(records: list[dict]) -> list[dict]:
    return [records[1], records[0], *records[2:]]


def remove_last_event(run: Path) -> None:
    shutil.rmtree(run / "tensorboard")
    add_events(run, RECORDS[:-1])


def append_half_a_line(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr')


def change_last_digit(record: dict) -> dict:
    return record | {"loss": np.nextafter(record["loss"], 1.0)}


# What differs, by name: a change of a run, and the beginning of the message.
DIFFERENCES: dict[str, tuple[Callable, str]] = {
    "a bit": (flip_bit, "arrays: step 3['params']['kernel']"),
    "a negative zero": (lambda run: save(run, PARAMS * -0.0), "arrays: "),
    "another type": (lambda run: save(run, PARAMS.astype(np.float64)), "arrays: "),
    "another step": (lambda run: save(run, PARAMS, 4), "files: checkpoints/"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "checkpoints" / "3"), "arrays: "),
    "a line twice": (
        lambda run: write_metrics(run, [*RECORDS, RECORDS[-1]]),
        "metrics.jsonl: line 7",
    ),
    "a line too few": (lambda run: write_metrics(run, RECORDS[:-1]), "metrics.jsonl: line 6"),
    "lines in another order": (
        lambda run: write_metrics(run, swap_first_two(RECORDS)),
        "metrics.jsonl: line 1",
    ),
    "a last digit": (
        lambda run: write_metrics(run, [*RECORDS[:-1], change_last_digit(RECORDS[-1])]),
        "metrics.jsonl: line 6",
    ),
    "an event too few": (remove_last_event, "TensorBoard of other: "),
    "an event twice": (lambda run: add_events(run, RECORDS[-1:]), "TensorBoard of other: "),
    "a figure": (
        lambda run: write_summary(run, test={"greedy": {"right": 4}}),
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


@pytest.mark.parametrize("change", DIFFERENCES)
def test_the_smallest_difference_is_named(reference_run, other_run, change):
    assert same_run.differences(other_run, reference_run) == []
    alter, message = DIFFERENCES[change]
    alter(other_run)
    for pair in ((other_run, reference_run), (reference_run, other_run)):
        found = same_run.differences(*pair)
        assert any(line.startswith(message) for line in found), found


def test_a_line_cut_short_is_not_a_record(reference_run, other_run):
    append_half_a_line(other_run)
    with pytest.raises(ValueError):
        same_run.scalars(other_run)
    assert same_run.lines(other_run, "metrics.jsonl") != same_run.lines(
        reference_run, "metrics.jsonl"
    )


def test_clocks_may_differ(reference_run, other_run):
    write_metrics(other_run, [record | {"seconds": 7.0} for record in RECORDS])
    write_summary(other_run, command="python --resume", seconds={"train": 9.0})
    assert same_run.differences(other_run, reference_run) == []
