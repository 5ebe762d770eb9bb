"""From a task's name in the configuration to the task."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from sequencematch.data import arithmetic, jsonl
from sequencematch.data.task import Task

SPLITS = ("train", "validation", "test")
TASKS: dict[str, Callable[[Any], Task]] = {"arithmetic": arithmetic.task, "jsonl": jsonl.task}


def load_task(name: str, data: Any) -> Task:
    """Makes the task that the configuration names.

    Args:
      name: a key of `TASKS`, or "package.module:function" for a constructor of your own (see
        `sequencematch.data.task`).
      data: the configuration's `data` section, which the constructor is called with.

    Raises:
      ValueError: there is no such task, its data cannot be had as configured, or what a constructor
        of your own makes is no task.
      OSError: a file it reads is missing or unreadable.
    """
    constructor = _imported(name) if ":" in name else TASKS.get(name)
    if constructor is None:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0)[0]
        raise ValueError(
            f"task={name!r}: did you mean {near!r}? Allowed: {', '.join(TASKS)}, "
            "or your own as 'package.module:function'"
        )
    return _made(name, constructor, data) if ":" in name else constructor(data)


def check_harmless(name: str, data: Any, usual: Any) -> None:
    """Whether the task may be made that a file asks for which somebody else may have written.

    Args:
      name, data: as `load_task` takes them.
      usual: the `data` section of the defaults.

    Raises:
      ValueError: it would run Python code, or make data where none were kept before.
    """
    advice = "if that is yours, name the configuration again, with --config=FILE and its changes"
    if ":" in name:
        raise ValueError(f"config.json asks for Python code to be run, task={name!r}: {advice}")
    if name == "arithmetic" and data.dir != usual.dir and not arithmetic.kept(data.dir):
        raise ValueError(f"config.json asks for data to be made in data.dir={data.dir!r}: {advice}")


def _made(name: str, constructor: Callable[[Any], Task], data: Any) -> Task:
    """The task of a constructor that somebody else wrote."""
    try:
        task = constructor(data)
    except Exception as cause:
        raise ValueError(f"task={name!r} fails: {type(cause).__name__}: {cause}") from cause
    if not isinstance(task, Task):
        raise ValueError(f"task={name!r} makes a {type(task).__name__}, not a Task")
    for split in SPLITS:
        if not len(task.splits.get(split, ())):
            raise ValueError(f"task={name!r} has no examples in its split {split!r}")
    return task


def _imported(path: str) -> Callable[[Any], Task]:
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as cause:  # a module is Python: importing it can fail in any way
        raise ValueError(f"task={path!r} cannot be imported: {cause}") from cause
