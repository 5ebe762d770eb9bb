"""Small data sets of arithmetic questions, prepared in a folder."""

from types import SimpleNamespace


def data_config(folder, **changes):
    """The configuration's `data` section."""
    defaults = {
        "dir": str(folder),
        "source": "generator",
        "module": "arithmetic__add_or_sub_in_base",
        "bases": (),
        "entropy": (1.0, 2.0),
        "train": 40,
        "validation": 10,
        "test": 20,
        "seed": 0,
    }
    return SimpleNamespace(**defaults | changes)


def contents(task):
    return {split: list(examples) for split, examples in task.splits.items()}
