"""What decides whether an answer is right, by name."""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from sequencematch.data.task import Example, exact_match

MARK = "####"  # before the result of a worked answer, as in GSM8K
# A sign is no part of a number that follows another, as in 5-3.
_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(rf"(?:(?<![0-9.])-)?(?:{_WHOLE}(?:\.[0-9]+)?|(?<![0-9.])\.[0-9]+)")


class Judge(NamedTuple):
    """How answers to a task are judged: attributes of `Task`, by the same names."""

    check: Callable[[Example, str], bool] = exact_match
    possible: Callable[[Example, str], bool] | None = None
    metrics: Sequence[str | Callable[..., Mapping[str, Any]]] = ("accuracy",)
    judged_by: str = "accuracy"
    is_open: bool = False
    is_windowed: bool = False


def same_result(example: Example, text: str) -> bool:
    """Whether what follows the last `####` is what follows it in a reference, white space aside.

    A reference without `####` is a result as a whole; an answer without it is wrong.
    """
    _, mark, result = text.rpartition(MARK)
    results = (reference.rpartition(MARK)[2] for reference in example.references)
    return bool(mark) and any(result.split() == each.split() for each in results)


def same_last_number(example: Example, text: str) -> bool:
    """Whether the last number is that of a reference; `1,234.50` is 1234.5."""
    number = last_number(text)
    return number is not None and number in map(last_number, example.references)


def last_number(text: str) -> Decimal | None:
    """The last decimal number in a text."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def accept_anything(example: Example, text: str) -> bool:
    """Yes: a right answer may begin with any text."""
    return True


# Of texts that may go on in any way: none is an error, and what they are like is measured.
OPEN_ENDED = Judge(
    metrics=("overlap", "entropy", "diversity", "repetition", "zipf", "length"),
    possible=accept_anything,
    judged_by="overlap",
    is_open=True,
)

CHECKERS: dict[str, Judge] = {
    "exact": Judge(),
    "hash": Judge(same_result, accept_anything),
    "last_number": Judge(same_last_number, accept_anything),
}
