"""The share of right answers."""

from collections.abc import Sequence

from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.intervals import wilson


def accuracy(answers: Sequence[Answer]) -> dict:
    """Returns the share of right answers with its 95 % interval, and how the answers ended."""
    n, right = len(answers), sum(a.right for a in answers)
    low, high = wilson(right, n)
    return {
        "accuracy": right / n,
        "low": low,
        "high": high,
        "n": n,
        "right": right,
        "finished": sum(a.finished for a in answers) / n,
        # In actions, edits and <eos> included: what an answer costs.
        "length": sum(len(a.actions) for a in answers) / n,
    }
