"""From a task's name in the configuration to the task."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from sequencematch.data import arithmetic, jsonl
from sequencematch.data.task import Example, Task

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
    constructor = _import(name) if ":" in name else TASKS.get(name)
    if constructor is None:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0)[0]
        raise ValueError(
            f"task={name!r}: did you mean {near!r}? Allowed: {', '.join(TASKS)}, "
            "or your own as 'package.module:function'"
        )
    return _construct(name, constructor, data) if ":" in name else constructor(data)


def check_harmless(name: str, data: Any, usual: Any) -> None:
    """Whether the task may be made that a file asks for which somebody else may have written.

    Args:
      name, data: as `load_task` takes them.
      usual: the `data` section of the defaults.

    Raises:
      ValueError: it would run Python code, or make data in a folder that does not have them yet.
    """
    advice = "if that is yours, name the configuration again, with --config=FILE and its changes"
    if ":" in name:
        raise ValueError(f"config.json asks for Python code to be run, task={name!r}: {advice}")
    if name == "arithmetic" and data.dir != usual.dir and not arithmetic.is_prepared(data):
        raise ValueError(f"config.json asks for data to be made in data.dir={data.dir!r}: {advice}")


def _construct(name: str, constructor: Callable[[Any], Task], data: Any) -> Task:
    """The task of a constructor that somebody else wrote."""
    try:
        task = constructor(data)
        wrong = _fault(task)
    except Exception as cause:
        raise ValueError(f"task={name!r} fails: {type(cause).__name__}: {cause}") from cause
    if wrong:
        raise ValueError(f"task={name!r} {wrong}")
    return task


def _fault(task: Any) -> str:
    """What of a task is not as `task.Task` describes it, or nothing."""
    if not isinstance(task, Task):
        return f"makes a {type(task).__name__}, not a Task"
    for split in SPLITS:
        if not len(task.splits.get(split, ())):
            return f"has no examples in its split {split!r}"
        first = task.splits[split][0]
        if not isinstance(first, Example) or not all(isinstance(text, str) for text in first):
            return f"has a first example in its split {split!r} that is no Example of two texts"
    for field in ("name", "alphabet", "confusable"):
        if not isinstance(getattr(task, field), str):
            return f"has no text for its {field}"
    answer = task.splits["test"][0]
    for text in (answer.completion, "", task.alphabet):
        task.check(answer, text)
    return ""


def _import(path: str) -> Callable[[Any], Task]:
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as cause:  # a module is Python: importing it can fail in any way
        raise ValueError(f"task={path!r} cannot be imported: {cause}") from cause
