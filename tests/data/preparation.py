"""Small data sets of arithmetic questions, prepared in a folder."""

from types import SimpleNamespace

from sequencematch.data.mathematics import Questions

ADD = "arithmetic__add_or_sub_in_base"


def data_config(folder, **changes):
    """The configuration's `data` section."""
    defaults = {
        "dir": str(folder),
        "source": "generator",
        "module": ADD,
        "bases": (),
        "entropy": (1.0, 2.0),
        "train": 40,
        "validation": 10,
        "test": 20,
        "seed": 0,
        "split": "twins",
    }
    return SimpleNamespace(**defaults | changes)


def contents(task):
    return {split: list(examples) for split, examples in task.splits.items()}


def questions(module=ADD, bases=(), entropy=(2.0, 5.0), seed=0):
    return Questions(module, bases, entropy, seed)


def solve(prompt):
    """The base, both numbers and the answer of a question in a base, by Python's own int."""
    head, sum_ = prompt.removesuffix("?").split(", what is ")
    base = int(head.removeprefix("In base "))
    left, sign, right = sum_.split(" ")
    p, q = int(left, base), int(right, base)
    return base, p, q, p + q if sign == "+" else p - q
