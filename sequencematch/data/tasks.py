"""Tasks by name, as the configuration gives it."""

import difflib
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from sequencematch.data import countdown, jsonl
from sequencematch.data.checkers import CHECKERS, OPEN_ENDED, Judge
from sequencematch.data.fields import WriteChat, write_turns
from sequencematch.data.gym_sets import DATA_SETS, REFUSED
from sequencematch.data.task import Example, Task

SPLITS = ("train", "validation", "test")


def _later(module: str, function: str, *args: Any) -> Callable[[Any], Any]:
    """A function of a module that is imported when it is called: it needs tensorflow-datasets."""
    name = f"sequencematch.data.{module}"
    return lambda data: getattr(importlib.import_module(name), function)(*args, data)


TASKS: dict[str, Callable[[Any], Task]] = {
    "arithmetic": _later("arithmetic", "task"),
    "countdown": countdown.task,
    "jsonl": jsonl.task,
    "text": _later("text", "task"),
    **{f"gym/{name}": _later("gym", "task", name) for name in (*DATA_SETS, *REFUSED)},
}
# Those that write files into data.dir -> whether they are there already.
PREPARED: dict[str, Callable[[Any], bool]] = {
    "arithmetic": _later("arithmetic", "is_prepared"),
    "text": _later("text", "is_prepared"),
    **{f"gym/{name}": _later("gym", "is_prepared", name) for name in DATA_SETS},
}
# How the answers to each of them are judged: known without its data.
JUDGES: dict[str, Callable[[Any], Judge]] = {
    "arithmetic": lambda data: CHECKERS["exact"],
    "countdown": lambda data: Judge(countdown.is_right, countdown.is_beginning),
    "jsonl": lambda data: CHECKERS[data.checker],
    "text": lambda data: OPEN_ENDED._replace(is_windowed=data.window > 0),
    **{f"gym/{name}": _later("gym", "judge", name) for name in (*DATA_SETS, *REFUSED)},
}


def load_task(name: str, data: Any, write_chat: WriteChat = write_turns) -> Task:
    """Returns the task that the configuration names.

    Args:
      name: a key of `TASKS`, or "package.module:function" for a task of your own (see
        `sequencematch.data.task`).
      data: the configuration's `data` section, which the function is called with.
      write_chat: writes the prompts of chats; only "jsonl" has any.

    Raises:
      ValueError: there is no such task, its data cannot be made as configured, or your own function
        fails or returns something else than a task.
      OSError: a file of the task is missing or unreadable.
    """
    constructor = _import(name) if ":" in name else TASKS.get(name)
    if constructor is None:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0)[0]
        plain = ", ".join(task for task in TASKS if "/" not in task)
        raise ValueError(
            f"task={name!r}: did you mean {near!r}? Allowed: {plain}, gym/ and one of "
            f"{', '.join(DATA_SETS)}, or your own as 'package.module:function'"
        )
    if ":" in name:
        return _construct(name, constructor, data)
    if name == "jsonl":
        constructor = partial(jsonl.task, write_chat=write_chat)
    task = constructor(data)._replace(**JUDGES[name](data)._asdict())
    for split in SPLITS:
        if not len(task.splits[split]):
            raise ValueError(f"task={name!r} has no example for {split}: raise config.data.{split}")
    return task


def check_harmless(name: str, data: Any, usual: Any) -> None:
    """Checks that loading the task of a work directory's config.json is harmless.

    Resuming reads that file, and someone else may have written it.

    Args:
      name, data: as `load_task` takes them.
      usual: the `data` section of the defaults.

    Raises:
      ValueError: loading would run Python code, or prepare data in a folder that is not the default.
    """
    advice = "if that is yours, name the configuration again, with --config=FILE and its changes"
    if ":" in name:
        raise ValueError(f"config.json asks to run Python code, task={name!r}: {advice}")
    if name == "text" and data.corpus.startswith("tfds:") and data.dir != usual.dir:
        # Even to look whether it is there runs what its files name.
        raise ValueError(f"config.json asks to read a data set in data.dir={data.dir!r}: {advice}")
    if name in PREPARED and data.dir != usual.dir and not PREPARED[name](data):
        raise ValueError(f"config.json asks to prepare data in data.dir={data.dir!r}: {advice}")


def _construct(name: str, constructor: Callable[[Any], Task], data: Any) -> Task:
    """Calls a user's constructor and checks what it returns."""
    try:
        task = constructor(data)
        fault = _fault(task)
    except Exception as cause:  # it is not our code: it can fail in any way
        raise ValueError(f"task={name!r} fails: {type(cause).__name__}: {cause}") from cause
    if fault:
        raise ValueError(f"task={name!r} {fault}")
    return task


def _fault(task: Any) -> str:
    """Returns what differs from the description of `Task`; "" if nothing does."""
    if not isinstance(task, Task):
        return f"makes a {type(task).__name__}, not a Task"
    for split in SPLITS:
        if not len(task.splits.get(split, ())):
            return f"has no examples in its split {split!r}"
        first = task.splits[split][0]  # one: reading all is left to `check_examples`
        if not isinstance(first, Example) or not _has_texts(first):
            return f"has a first example in its split {split!r} that is no Example of texts"
    for field in ("name", "judged_by"):
        if not isinstance(getattr(task, field), str):
            return f"has no text for its {field}"
    for field in ("tokenizer", "confusable"):
        if not callable(getattr(task, field)):
            return f"has no function for its {field}"
    if isinstance(task.metrics, str) or not all(
        isinstance(m, str) or callable(m) for m in task.metrics
    ):
        return "has metrics that are no list of names and functions"
    # A checker that fails on some text would otherwise stop the run at its first validation.
    example = task.splits["test"][0]
    for tried in (example.completion, "", example.prompt):
        task.check(example, tried)
        if task.possible:
            task.possible(example, tried)
    beginnings = [example.completion[:n] for n in range(len(example.completion) + 1)]
    wrong = [part for part in beginnings if task.possible and not task.possible(example, part)]
    return f"finds that no answer begins with {wrong[0]!r}, a reference does" if wrong else ""


def _has_texts(example: Example) -> bool:
    texts = (example.prompt, example.completion, *example.references)
    return all(isinstance(each, str) for each in texts)


def _import(path: str) -> Callable[[Any], Task]:
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as cause:  # a module is Python: importing it can fail in any way
        raise ValueError(f"task={path!r} cannot be imported: {cause}") from cause
