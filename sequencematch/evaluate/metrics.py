"""Metrics by name: what is measured of answers, and which figure of it a run is judged by."""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

from sequencematch.data.task import Example, Task
from sequencematch.evaluate import diversity, likeness
from sequencematch.evaluate.accuracy import accuracy
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.intervals import jackknife

# (examples, an answer to each; at least one) -> figures by name, plain numbers or None.
Metric = Callable[[Sequence[Example], Sequence[Answer]], Mapping[str, Any]]


def of_texts(measure: Callable[[Sequence[str]], Mapping[str, Any]]) -> Metric:
    """The metric of a function of the answers' texts alone."""
    return lambda examples, answers: measure([answer.text for answer in answers])


def _overlap(examples: Sequence[Example], answers: Sequence[Answer]) -> Mapping[str, Any]:
    return diversity.overlap([a.text for a in answers], [e.completion for e in examples])


def edit_figures(examples: Sequence[Example], answers: Sequence[Answer]) -> Mapping[str, Any]:
    """Mean number of edits among the actions of a text, and the share of texts with one.

    None where it is not known of a text what it was made by.
    """
    counts = [answer.edits for answer in answers]
    if None in counts:
        return {"edit_actions": None, "edited_texts": None}
    n = len(counts)
    return {"edit_actions": sum(counts) / n, "edited_texts": sum(c > 0 for c in counts) / n}


def of_references(
    measure: Callable[[Sequence[str], Sequence[Sequence[str]]], Mapping[str, Any]],
) -> Metric:
    """The metric of a function of the answers' texts and the references of each."""
    return lambda examples, answers: measure(
        [answer.text for answer in answers], [example.references for example in examples]
    )


# Name of a figure -> its least and its largest value, beyond which no interval reaches.
SHARES = ("overlap", "diversity", "repetition", "edited_texts", *likeness.ROUGE)
RANGES = dict.fromkeys(SHARES, (0.0, 1.0))
RANGES |= dict.fromkeys(("bleu", "chrf"), (0.0, 100.0))
RANGES |= dict.fromkeys(
    ("entropy", *diversity.ENTROPIES, "zipf", "words", "characters", "edit_actions"), (0.0, inf)
)


def is_share(name: str, values: Iterable[float]) -> bool:
    """Whether a figure is shown as a share: one that can only be from 0 to 1, as far as that is known.

    Args:
      name: its name; of our own figures it says all.
      values: those that are shown, ends of intervals included: they decide of another.
    """
    if name in RANGES:
        return RANGES[name] == (0.0, 1.0)
    return not any(value < 0 or value > 1 for value in values)


METRICS: dict[str, Metric] = {
    "accuracy": lambda examples, answers: accuracy(answers),
    "overlap": _overlap,
    "entropy": of_texts(diversity.ngram_entropy),
    "diversity": of_texts(diversity.diversity),
    "repetition": of_texts(diversity.repetition),
    "zipf": of_texts(diversity.zipf),
    "length": of_texts(diversity.length),
    "edits": edit_figures,
    "bleu": of_references(likeness.bleu_and_chrf),
    "rouge": of_references(likeness.rouge),
    "self_bleu": of_texts(likeness.self_bleu),
}


def task_metrics(task: Task) -> list[Metric]:
    """Returns the metrics of a task; its own functions are taken as they are.

    `low` and `high` are the interval of what it is judged by, so those of a metric by another name are
    left out.

    Raises:
      ValueError: a name is not in `METRICS`.
    """
    for name in task.metrics:
        if isinstance(name, str) and name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0)[0]
            raise ValueError(
                f"task {task.name!r} has no metric {name!r}: did you mean {near!r}? Allowed: "
                f"{', '.join(METRICS)}, or functions of (examples, answers)"
            )
    known = {
        name: metric if name == task.judged_by else partial(_without_interval, metric)
        for name, metric in METRICS.items()
    }
    return [known[m] if isinstance(m, str) else m for m in task.metrics]


def _without_interval(
    metric: Metric, examples: Sequence[Example], answers: Sequence[Answer]
) -> Mapping[str, Any]:
    found = metric(examples, answers)
    return {name: x for name, x in found.items() if name not in ("low", "high")}


def measure(metrics: Sequence[Metric], answers: Sequence[Answer]) -> dict[str, Any]:
    """Returns the figures of answers; of a figure that two metrics give, the first one's.

    Args:
      metrics: what is measured, in order.
      answers: at least one.
    """
    figures: dict[str, Any] = {}
    for metric in metrics:
        figures = {**metric([a.example for a in answers], answers), **figures}
    return figures


def figure_intervals(
    metrics: Sequence[Metric], answers: Sequence[Answer]
) -> dict[str, tuple[float, float]]:
    """Returns the 95 % interval over texts of each figure that is a fraction, by the jackknife."""
    found = jackknife(lambda which: measure(metrics, [answers[i] for i in which]), len(answers))
    return {name: _within(ends, RANGES.get(name)) for name, ends in found.items()}


def _within(ends: tuple[float, float], whole: tuple[float, float] | None) -> tuple[float, float]:
    return (max(ends[0], whole[0]), min(ends[1], whole[1])) if whole else ends


def check_metrics(task: Task, metrics: Sequence[Metric], answer: Answer) -> None:
    """Measures one answer, so that a metric that fails does so before any training.

    Raises:
      ValueError: a metric fails, or none gives the figure that the task is judged by.
    """
    try:
        figures = measure(metrics, [answer])
        json.dumps(figures)  # as summary.json will
    except Exception as cause:  # it may not be our code: it can fail in any way
        raise ValueError(
            f"the metrics of task {task.name!r} fail: {type(cause).__name__}: {cause}"
        ) from cause
    if not isinstance(figures.get(task.judged_by), int | float):
        raise ValueError(
            f"task {task.name!r} is judged by {task.judged_by!r}, but its metrics give the figures "
            f"{', '.join(figures) or 'none'}: name one of these, with a number"
        )
