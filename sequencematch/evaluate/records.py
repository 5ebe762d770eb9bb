"""Reads the files of a run, also unfinished or damaged ones."""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from sequencematch.evaluate.plots import finite_or_nan

JUDGED = "/greedy"  # a validation's figure of greedy answers is named NAME/greedy


class RunFiles(NamedTuple):
    """The content of a run's files.

    Attributes:
      name: the work directory's.
      summary: of summary.json; {} before the run has ended.
      metrics: lines of metrics.jsonl, by step.
      traces: lines of traces.jsonl.
      unreadable: number of lines that are no JSON object; a killed run may leave one.
      judged_by: the figure that the run is judged by.
      scores: lines of scores.jsonl, which --mode=score adds, those of one file as one; of a figure that
        two of them give, the later. Of a file that has changed since, those of its later content.
    """

    name: str
    summary: dict
    metrics: list[dict]
    traces: list[dict]
    unreadable: int
    judged_by: str
    scores: Sequence[dict] = ()


def read(workdir: pathlib.Path) -> RunFiles:
    """Reads metrics.jsonl, summary.json, traces.jsonl and scores.jsonl, whichever exist.

    Raises:
        ValueError: summary.json is no JSON object.
    """
    path = workdir / "summary.json"
    summary = _parse(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
    if not isinstance(summary, dict):
        raise ValueError(f"{path}: expected a JSON object; the file is damaged")
    metrics, torn_metrics = _read_lines(workdir / "metrics.jsonl")
    traces, torn_traces = _read_lines(workdir / "traces.jsonl")
    scores, torn_scores = _read_lines(workdir / "scores.jsonl")
    metrics = _by_step(metrics)
    return RunFiles(
        workdir.resolve().name,
        summary,
        metrics,
        traces,
        torn_metrics + torn_traces + torn_scores,
        _judged_by(summary, metrics),
        _by_file(scores),
    )


def _judged_by(summary: dict, metrics: list[dict]) -> str:
    """The figure that a run is judged by: of the summary, or of a validation before there is one."""
    if isinstance(summary.get("judged_by"), str):
        return summary["judged_by"]
    validations = [line for line in metrics if line.get("kind") == "validation"]
    named = [key for line in validations for key in line if key.endswith(JUDGED)]
    # Runs of before tasks named their metrics have no such key in the summary.
    return named[-1].removesuffix(JUDGED) if named else "accuracy"


def _read_lines(path: pathlib.Path) -> tuple[list[dict], int]:
    """Returns the objects of a jsonl file, and the number of lines that are not one."""
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    # Not splitlines: a JSON string may contain U+2028 and other characters that it splits at.
    values = [_parse(line) for line in text.split("\n") if line.strip()]
    objects = [value for value in values if isinstance(value, dict)]
    return objects, len(values) - len(objects)


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: brackets nested too deeply
        return None


def _by_file(scores: list[dict]) -> list[dict]:
    """Joins the lines of each file, and their intervals, as long as its content is the same."""
    found: dict[str, dict] = {}
    for line in scores:
        before = found.get(str(line.get("file")), {})
        before = before if before.get("checksum") == line.get("checksum") else {}
        both = [x for each in (before, line) if isinstance(x := each.get("intervals"), dict)]
        intervals = {name: ends for each in both for name, ends in each.items()}
        found[str(line.get("file"))] = before | line | {"intervals": intervals}
    return [*found.values()]


def _by_step(metrics: list[dict]) -> list[dict]:
    """Sorts lines by step; of two for one step and kind, keeps the later."""
    numbered = [line for line in metrics if math.isfinite(finite_or_nan(line.get("step")))]
    # A resumed run repeats the steps after its checkpoint.
    latest = {(line["step"], str(line.get("kind"))): line for line in numbered}
    return [latest[key] for key in sorted(latest)]
