"""Checkers by name: what counts as a right answer."""

from decimal import Decimal

import pytest

from sequencematch.data.checkers import CHECKERS, last_number
from sequencematch.data.task import Example
from sequencematch.data.tasks import JUDGES, TASKS


def is_right(name, text, *references):
    return CHECKERS[name].check(Example("?", references[0], references), text)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("7 and 5 are 12 #### 12", True),
        ("####12", True),
        ("#### 11 #### 12 ", True),  # the last mark counts
        ("####  twelve", True),
        ("#### 12.0", False),
        ("#### 12 #### 11", False),
        ("12", False),
        ("", False),
        ("####", False),
    ],
)
def test_hash_compares_what_follows_the_mark(text, right):
    assert is_right("hash", text, "5 + 7 = <<12>>12\n#### 12", "#### twelve") == right


def test_a_reference_without_a_mark_is_a_result_as_a_whole():
    assert is_right("hash", "so #### 12", "12") and not is_right("hash", "12", "12")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("1,234.5", True),
        ("it is 1234.50.", True),
        ("2000-1234.5", True),  # a sign after a number is an operator
        ("9 9 1234.5 apples", True),
        ("-1234.5", False),
        ("1,23,4.5", False),
        ("1234.5 or 6", False),
        ("none", False),
        ("", False),
        ("\u0661\u0662", False),  # digits of another script
        ("9" * 5000, False),
    ],
)
def test_last_number_compares_numbers(text, right):
    assert is_right("last_number", text, "the sum is 1234.5") == right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("x=-.25", "-0.25"),
        ("5...7", "7"),
        ("v1.2.3", "3"),
        ("3.", "3"),
    ],
)
def test_a_number_may_begin_with_its_point(text, number):
    assert last_number(text) == Decimal(number)


def test_no_number_is_not_the_number_of_a_reference_without_one():
    assert not is_right("last_number", "none", "none")


@pytest.mark.parametrize("name", CHECKERS)
def test_references_are_right_and_right_answers_may_begin_with_their_beginnings(name):
    example, judge = Example("?", "so #### 12"), CHECKERS[name]
    assert judge.check(example, example.completion)
    beginnings = [example.completion[:n] for n in range(len(example.completion) + 1)]
    assert judge.possible is None or all(judge.possible(example, text) for text in beginnings)


def test_every_task_has_a_judge():
    assert set(JUDGES) == set(TASKS)
