"""What single values may be: rules that configuration keys share."""

import os
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np


class Rule(NamedTuple):
    """What the value of a key may be.

    Attributes:
      allowed: in words.
      holds: whether a value is allowed.
      names: those that it may have, to suggest one for a name that is none of them.
    """

    allowed: str
    holds: Callable[[Any], bool]
    names: Collection[str] = ()


# Steps and numbers of rows are int32 on the devices.
count = Rule("in [1, 2**31)", lambda x: 1 <= x < 2**31)
count_or_zero = Rule("in [0, 2**31)", lambda x: 0 <= x < 2**31)
positive = Rule("> 0", lambda x: x > 0)
non_negative = Rule(">= 0", lambda x: x >= 0)
fraction = Rule("in [0, 1]", lambda x: 0 <= x <= 1)
fraction_below_one = Rule("in [0, 1)", lambda x: 0 <= x < 1)

# Adam divides by 1 - b in float32, which must not round to 0.
decay = Rule("in [0, 1), as a float32", lambda x: 0 <= np.float32(x) < 1)
seed = Rule("in [0, 2**32)", lambda x: 0 <= x < 2**32)


def one_of(names: Collection[str]) -> Rule:
    """The rule of one name of a table."""
    return Rule("one of " + ", ".join(names), lambda x: x in names, names)


def one_of_or_none(names: Collection[str]) -> Rule:
    """The rule of one name of a table, or ''."""
    return Rule("'' or one of " + ", ".join(names), lambda x: x == "" or x in names, names)


def some_of(names: Collection[str]) -> Rule:
    """The rule of different names of a table, or none."""
    allowed = "() or some of " + ", ".join(names)
    return Rule(allowed, lambda x: len(x) == len(set(x)) and set(x) <= set(names), names)


def is_path(text: str) -> bool:
    """Whether a string can be a path; a leading ~ must expand to somebody's home."""
    return "\0" not in text and not os.path.expanduser(text).startswith("~")


def can_be_folder(text: str) -> bool:
    """Whether a path is a folder, or one could be created there."""
    if not is_path(text):
        return False
    path = os.path.abspath(os.path.expanduser(text))
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path)


def is_project(text: str) -> bool:
    """Whether a string is empty or names a project of Weights & Biases, perhaps with its owner."""
    return not text or re.fullmatch(r"([\w.-]{1,128}/)?[\w.-]{1,128}", text) is not None


def is_pattern(text: str) -> bool:
    """Whether a string is a regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def is_pattern_of_bytes(text: str) -> bool:
    """Whether a string, in UTF-8, is a regular expression of bytes."""
    try:
        re.compile(text.encode(), re.MULTILINE)
    except (re.error, OverflowError, RecursionError, UnicodeEncodeError):
        return False
    return True


def is_start(text: str) -> bool:
    """Whether a string names the parameters that a run begins with, or is empty."""
    return not text or bool(re.fullmatch("(run|adapter):.+", text, re.DOTALL))
