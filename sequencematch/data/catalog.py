"""From a task's name in the configuration to the task."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from sequencematch.data import arithmetic, jsonl
from sequencematch.data.task import Task

TASKS: dict[str, Callable[[Any], Task]] = {"arithmetic": arithmetic.task, "jsonl": jsonl.task}


def load_task(name: str, data: Any) -> Task:
    """Makes the task that the configuration names.

    Args:
      name: a key of `TASKS`, or "package.module:function" for a constructor of your own (see
        `sequencematch.data.task`).
      data: the configuration's `data` section, which the constructor is called with.

    Raises:
      ValueError: there is no such task, or its data cannot be had as configured.
      OSError: a file it reads is missing or unreadable.
    """
    constructor = _imported(name) if ":" in name else TASKS.get(name)
    if constructor is None:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0)[0]
        raise ValueError(
            f"task={name!r}: did you mean {near!r}? Allowed: {', '.join(TASKS)}, "
            "or your own as 'package.module:function'"
        )
    return constructor(data)


def _imported(path: str) -> Callable[[Any], Task]:
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as cause:  # a module is Python: importing it can fail in any way
        raise ValueError(f"task={path!r} cannot be imported: {cause}") from cause
