"""The share of right answers."""

from collections.abc import Iterable, Sequence

from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.intervals import wilson


def accuracy(answers: Sequence[Answer]) -> dict:
    """Returns the share of right answers with its 95 % interval, and how the answers ended.

    The interval is Wilson's, as if questions were independent: those about the same numbers are not
    quite, and experiments.tables draws them together.
    """
    n, right = len(answers), sum(a.right for a in answers)
    low, high = wilson(right, n)
    return {
        "accuracy": right / n,
        "low": low,
        "high": high,
        "n": n,
        "right": right,
        "finished": sum(a.finished for a in answers) / n,
        # In actions, edits and <eos> included, of all draws: what an answer costs.
        "length": sum(a.taken for a in answers) / n,
    }


def right_within(answers: Sequence[Answer], budgets: Iterable[int]) -> dict[str, float]:
    """Returns, for each budget, the share of answers that are right within as many actions.

    An answer that retries takes more actions, and the best of several draws those of all, so ways to
    answer are also compared at equal budgets. The share is what answers limited to so many actions
    would get, whose actions would be the same. The best of several draws needs all of them by then.
    """
    needed = [a.taken for a in answers if a.right]
    return {str(n): sum(length <= n for length in needed) / len(answers) for n in budgets}
