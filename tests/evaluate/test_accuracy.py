from sequencematch.evaluate.accuracy import accuracy, right_within
from sequencematch.evaluate.intervals import wilson
from tests.evaluate.answers import answer


def test_accuracy_is_the_share_of_right_answers():
    answers = [answer("ab", "ab$", True), answer("ab", "ac<b$", True), answer("ab", "b<c", False)]
    found = accuracy(answers)
    assert (found["accuracy"], found["n"], found["right"]) == (2 / 3, 3, 2)
    assert (found["low"], found["high"]) == wilson(2, 3)
    assert (found["finished"], found["length"]) == (2 / 3, 11 / 3)


def test_within_a_budget_only_answers_that_fit_are_right():
    answers = [answer("ab", "ab$", True), answer("ab", "ac<b$", True), answer("ab", "c$", False)]
    found = right_within(answers, (2, 3, 4, 5))
    assert found == {"2": 0, "3": 1 / 3, "4": 1 / 3, "5": accuracy(answers)["accuracy"]}
