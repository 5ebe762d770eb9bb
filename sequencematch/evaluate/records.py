"""The files that a run leaves, read as they are, whole or torn."""

import json
import math
import pathlib
from typing import NamedTuple

from sequencematch.evaluate.plots import finite


class RunFiles(NamedTuple):
    """What the files of a run say."""

    name: str  # of the work directory
    summary: dict  # {} before the run has ended
    metrics: list[dict]  # by step
    traces: list[dict]
    unreadable: int  # lines that are no JSON object, as a killed run may leave behind


def read(workdir: pathlib.Path) -> RunFiles:
    """Reads metrics.jsonl, summary.json and traces.jsonl, whichever exist.

    Raises:
        ValueError: summary.json is no JSON object.
    """
    path = workdir / "summary.json"
    summary = _parse(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
    if not isinstance(summary, dict):
        raise ValueError(f"{path}: expected a JSON object; the file is damaged")
    metrics, torn_metrics = _read_lines(workdir / "metrics.jsonl")
    traces, torn_traces = _read_lines(workdir / "traces.jsonl")
    name = workdir.resolve().name
    return RunFiles(name, summary, _by_step(metrics), traces, torn_metrics + torn_traces)


def _read_lines(path: pathlib.Path) -> tuple[list[dict], int]:
    """The objects of a jsonl file and the number of lines that hold none."""
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    # Only \n ends a line, not \r, nor U+2028 and its like, which a JSON string may hold as they are.
    values = [_parse(line) for line in text.split("\n") if line.strip()]
    objects = [value for value in values if isinstance(value, dict)]
    return objects, len(values) - len(objects)


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _by_step(metrics: list[dict]) -> list[dict]:
    """In order; a resumed run repeats the steps after its checkpoint, and the later line holds."""
    placed = [line for line in metrics if math.isfinite(finite(line.get("step")))]
    latest = {(line["step"], str(line.get("kind"))): line for line in placed}
    return [latest[key] for key in sorted(latest)]
