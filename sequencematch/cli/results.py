"""The judgement of a run: its answers to the test set, and what it leaves for people to read."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sequencematch.cli import workdir
from sequencematch.evaluate.accuracy import accuracy
from sequencematch.evaluate.edits import edit_statistics
from sequencematch.evaluate.generate import CHOICES, Answer, Generator, deletion_flags
from sequencematch.evaluate.report import write_report
from sequencematch.evaluate.values import correlation
from sequencematch.setup.build import Parts, make_generator, make_returns
from sequencematch.storage import console, files
from sequencematch.storage.provenance import provenance
from sequencematch.train.state import TrainState


def validation_figures(run: Parts, generator: Generator, state: TrainState) -> dict[str, float]:
    """Accuracy on the first examples of the validation set, for the learning curves."""
    examples = run.task.splits["validation"]
    examples = [examples[i] for i in range(min(run.config.evaluate.examples, len(examples)))]
    figures = {}
    for choice in CHOICES:
        found = accuracy(list(generator.answers(state.params, examples, choice)))
        figures[f"accuracy/{choice}"] = found["accuracy"]
        figures[f"accuracy/{choice}_low"] = found["low"]
        figures[f"accuracy/{choice}_high"] = found["high"]
    return figures


def publish(
    run: Parts,
    folder: Path,
    state: TrainState,
    facts: Mapping[str, Any],
    raise_if_asked: Callable[[], None],
) -> None:
    """Answers the test set; writes summary.json, traces.jsonl and report.html; prints the result.

    Args:
      run: the parts.
      folder: where the files go.
      state: what is judged.
      facts: what is known of its training.
      raise_if_asked: called between answers; raises if this is to end.
    """
    began = time.perf_counter()
    test, traces = evaluate_test_set(run, state, raise_if_asked)
    spent = {"train": facts["seconds"]["train"], "evaluate": time.perf_counter() - began}
    summary = dict(facts) | {
        "method": run.config.method,
        "seed": run.config.seed,
        "steps": int(state.step),
        "parameters": run.parameters,
        "seconds": spent | {"total": sum(spent.values())},
        "evaluated_by": dict(provenance()),
        "config": workdir.to_json(run.config),
        "test": test,
    }
    files.write(folder / "traces.jsonl", "".join(json.dumps(t) + "\n" for t in traces))
    workdir.write_json(folder / "summary.json", summary)
    report = write_report(folder)
    with console.ignore_write_failures(sys.stdout):
        for choice, found in test.items():
            print(f"{choice}: {describe(found)}")
        print(f"look at {report}")


def evaluate_test_set(
    run: Parts, state: TrainState, raise_if_asked: Callable[[], None]
) -> tuple[dict[str, dict], list[dict]]:
    """Figures of each way to answer the test set, and the traces of the first answers."""
    examples, generator, returns = run.task.splits["test"], make_generator(run), make_returns(run)
    test, traces = {}, []
    for choice in CHOICES:
        answers = []
        for answer in generator.answers(state.params, examples, choice):
            raise_if_asked()
            answers.append(answer)
        test[choice] = accuracy(answers) | {
            "edits": edit_statistics(run.recipe.mdp, answers, run.tokenizer.encode),
            "return": correlation(returns.of(state.params, answers), [a.right for a in answers]),
        }
        traces += [trace_record(run, choice, a) for a in choose_traces(run, answers)]
    return test, traces


def choose_traces(run: Parts, answers: Sequence[Answer]) -> list[Answer]:
    """The answers that the report shows; up to half of them use edits, for there is most to see."""
    count = run.config.evaluate.traces
    edits = [any(run.recipe.mdp.pops[action] for action in a.actions) for a in answers]
    edited = [a for a, uses in zip(answers, edits, strict=True) if uses]
    plain = [a for a, uses in zip(answers, edits, strict=True) if not uses]
    edited = edited[: max(count // 2, count - len(plain))]
    return [*edited, *plain[: count - len(edited)]]


def describe(found: Mapping[str, Any]) -> str:
    """The figures of one way to answer, for a person."""
    said = (
        f"{found['right']} of {found['n']} test questions right, {found['accuracy']:.1%} "
        f"(95 % interval {found['low']:.1%} to {found['high']:.1%})"
    )
    rho = found["return"]["spearman"]
    return said if rho is None else f"{said}; return and correctness correlate, Spearman {rho:+.2f}"


def trace_record(run: Parts, choice: str, answer: Answer) -> dict[str, Any]:
    """One answer as the report shows it."""
    return {
        "decode": choice,
        "prompt": answer.example.prompt,
        "answer": answer.example.completion,
        "actions": run.tokenizer.symbols(answer.actions),
        "deleted": deletion_flags(run.recipe.mdp, answer.actions),
        "text": answer.text,
        "right": answer.right,
    }
