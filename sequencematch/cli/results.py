"""Evaluates a run, and writes its summary, traces and report."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sequencematch.cli import figures, workdir
from sequencematch.evaluate.generate import Generator
from sequencematch.evaluate.metrics import is_share
from sequencematch.evaluate.report import write_report
from sequencematch.evaluate.sections import figure
from sequencematch.setup.build import Parts
from sequencematch.storage import console, files
from sequencematch.storage.processes import is_first
from sequencematch.storage.provenance import provenance
from sequencematch.train.state import TrainState


def evaluate_and_report(
    parts: Parts,
    folder: Path,
    state: TrainState,
    facts: Mapping[str, Any],
    raise_if_asked: Callable[[], None],
    generator: Generator | None = None,
) -> None:
    """Evaluates on the test set; writes summary.json, traces.jsonl and report.html; prints the result.

    Args:
      parts: the parts of the run.
      folder: the work directory.
      state: the train state to evaluate.
      facts: facts of its training, for the summary.
      raise_if_asked: called between answers; raises Interrupted if the run was asked to stop.
      generator: the one that has validated it, whose programs are compiled; None for a new one.
    """
    began, params = time.perf_counter(), parts.whole(state.params)
    test, traces = figures.evaluate_test_set(parts, params, raise_if_asked, generator)
    if not is_first():
        return
    spent = {"train": facts["seconds"]["train"], "evaluate": time.perf_counter() - began}
    summary = dict(facts) | {
        "method": parts.config.method,
        "seed": parts.config.seed,
        "steps": int(state.step),
        "parameters": parts.parameters,
        "judged_by": parts.task.judged_by,
        **parts.data.found,
        "seconds": spent | {"total": sum(spent.values())},
        "evaluated_by": dict(provenance()),  # may differ from what trained it
        "config": workdir.to_json(parts.config),
        "test": test,
    }
    # Traces first: a summary marks a run as done, so everything it describes must be there by then.
    files.write(folder / "traces.jsonl", "".join(json.dumps(t) + "\n" for t in traces))
    workdir.write_json(folder / "summary.json", summary)
    report = write_report(folder)
    with console.ignore_write_failures(sys.stdout):
        for choice, found in test.items():
            print(f"{choice}: {describe(found, parts.task.judged_by)}")
        print(f"report: {report}")


def evaluate_apart(
    parts: Parts,
    path: Path,
    state: TrainState,
    facts: Mapping[str, Any],
    raise_if_asked: Callable[[], None],
) -> None:
    """Evaluates on the test set of `parts`; writes one file, and prints the result.

    Args:
      parts, state, raise_if_asked: as of `evaluate_and_report`.
      path: the file.
      facts: what else it says.
    """
    began = time.perf_counter()
    test, traces = figures.evaluate_test_set(parts, parts.whole(state.params), raise_if_asked)
    if not is_first():
        return
    record = {
        **facts,
        "steps": int(state.step),
        "judged_by": parts.task.judged_by,
        "seconds": time.perf_counter() - began,
        "evaluated_by": dict(provenance()),
        "config": workdir.to_json(parts.config),
        "test": test,
        "traces": traces,
    }
    workdir.write_json(path, record)
    with console.ignore_write_failures(sys.stdout):
        for choice, found in test.items():
            print(f"{choice}: {describe(found, parts.task.judged_by, 'questions')}")
        print(f"results: {path}")


def describe(found: Mapping[str, Any], judged_by: str, asked: str = "test questions") -> str:
    """One printed line with the figures of one way of decoding; `asked` is what was answered."""
    values = (found.get(key) for key in (judged_by, "low", "high"))
    as_share = is_share(judged_by, (x for x in values if x is not None))
    shown = partial(figure, as_share=as_share)
    line = f"{judged_by} {shown(found[judged_by])}"
    if {"low", "high"} <= found.keys():
        line += f" (95 % interval {shown(found['low'])} to {shown(found['high'])})"
    if {"right", "n"} <= found.keys():
        line += f", {found['right']} of {found['n']} {asked} right"
    if found.get("unfinished"):
        line += f", {found['unfinished']} cut by the limit on actions (evaluate.max_actions)"
    rho = found["return"]["spearman"]
    # No correlation is defined where all answers are right, or all wrong.
    return line if rho is None else f"{line}; return and correctness correlate, Spearman {rho:+.2f}"
