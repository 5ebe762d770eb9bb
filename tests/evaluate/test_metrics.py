import numpy as np
import pytest

from sequencematch.evaluate.accuracy import accuracy
from sequencematch.evaluate.metrics import (
    METRICS,
    check_metrics,
    figure_intervals,
    is_share,
    measure,
    task_metrics,
)
from tests.evaluate.answers import TASK, answer

ANSWERS = [answer("ab", "ab$", True), answer("ab", "ac<b$", True), answer("ab", "b<c")]


def count_actions(examples, answers):
    """Figures of one's own, one of them under the name of another metric's."""
    assert [a.example for a in answers] == list(examples)
    return {"actions": sum(len(a.actions) for a in answers), "n": -1}


def test_metrics_are_measured_by_name_or_as_they_are_and_the_first_to_name_a_figure_gives_it():
    for metrics, n in ((("accuracy", count_actions), 3), ((count_actions, "accuracy"), -1)):
        found = measure(task_metrics(TASK._replace(metrics=metrics)), ANSWERS)
        assert found == accuracy(ANSWERS) | {"actions": 11, "n": n}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ("acuracy",)}, "'copy' has no metric 'acuracy': did you mean 'accuracy'?"),
        (
            {"judged_by": "length of it"},
            "by 'length of it', but its metrics give the figures accuracy,",
        ),
        ({"metrics": ()}, "by 'accuracy', but its metrics give the figures none"),
        ({"metrics": (lambda e, a: {"accuracy": None},)}, "one of these, with a number"),
        ({"metrics": (lambda e, a: 1 / 0,)}, "'copy' fail: ZeroDivisionError: division by zero"),
        ({"metrics": (lambda e, a: 3,)}, "'copy' fail: TypeError"),
        # summary.json could not hold it.
        (
            {"metrics": (lambda e, a: {"accuracy": 0.5, "n": np.int64(3)},)},
            "'copy' fail: TypeError: Object of type int64 is not JSON",
        ),
    ],
)
def test_metric_that_cannot_judge_is_refused_before_any_training(changes, message):
    task = TASK._replace(**changes)
    with pytest.raises(ValueError, match=message) as raised:
        check_metrics(task, task_metrics(task), ANSWERS[0])
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("overlap", [0.5], True),
        ("bleu", [0.8], False),  # of 100
        ("entropy", [0.8], False),
        ("accuracy", [0.0, 1.0], True),
        ("gain", [0.3, -0.05, 0.65], False),  # an end of its interval
        ("gain", [], True),
    ],
)
def test_a_figure_is_a_share_where_it_can_only_be_from_0_to_1(name, values, expected):
    """A figure has one unit in all places, whatever its value is."""
    assert is_share(name, values) == expected


def test_metric_of_any_figures_is_accepted():
    task = TASK._replace(metrics=("accuracy", count_actions), judged_by="actions")
    check_metrics(task, task_metrics(task), ANSWERS[0])


def test_intervals_stay_where_figures_can_be():
    """Of few texts that differ much t times the spread reaches beyond."""
    texts = ["a b a b a b", "one two three four", "c", "d e f g h i"]
    found = figure_intervals(
        [METRICS[name] for name in ("diversity", "repetition", "entropy", "length")],
        [ANSWERS[0]._replace(text=text) for text in texts],
    )
    assert found["repetition"][0] == 0 and found["diversity"][1] == 1
    assert all(low >= 0 for low, _ in found.values()) and len(found) == 9


def test_an_interval_is_of_what_the_task_is_judged_by():
    """That of accuracy is no interval of another figure."""
    for judged_by in ("accuracy", "actions", "length"):  # accuracy itself gives a length
        kept = {"low", "high"} if judged_by == "accuracy" else set()
        task = TASK._replace(metrics=("accuracy", count_actions), judged_by=judged_by)
        found = measure(task_metrics(task), ANSWERS)
        assert (
            found.keys() & {"low", "high"} == kept
            and {"accuracy", "actions", "length"} <= found.keys()
        )
