from sequencematch.evaluate.accuracy import accuracy
from sequencematch.evaluate.intervals import wilson
from tests.evaluate.answers import answer


def test_accuracy_is_the_share_of_right_answers():
    answers = [answer("ab", "ab$", True), answer("ab", "ac<b$", True), answer("ab", "b<c", False)]
    found = accuracy(answers)
    assert (found["accuracy"], found["n"], found["right"]) == (2 / 3, 3, 2)
    assert (found["low"], found["high"]) == wilson(2, 3)
    assert (found["finished"], found["length"]) == (2 / 3, 11 / 3)
