"""A task from a file of lines {"prompt": ..., "completion": ...}."""

import json
import os
import pathlib
from typing import Any

import numpy as np

from sequencematch.data.task import Example, Task, character_task

FIELDS = ("prompt", "completion")


def task(data: Any) -> Task:
    """Reads the file and splits it by prompt: all lines of one prompt fall into the same split.

    Their completions are the right answers to one question. In training every line teaches; in
    validation and test each prompt is asked once.

    Args:
      data: has `path`, `seed`, and the numbers of distinct prompts `train` (at most), `validation`
        and `test`. The held-out prompts are drawn first, so they do not depend on `train`. `split`
        is not read: what makes two prompts twins is known of arithmetic only.

    Raises:
      ValueError: a line is damaged, or there are too few prompts; names file and line.
      OSError: the file cannot be read.
    """
    name = data.path
    # pathlib's expanduser would raise RuntimeError for an unknown user; os.path's leaves the name.
    if "\0" in name or not (path := pathlib.Path(os.path.expanduser(name))).is_file():
        raise OSError(f"data.path={name!r} is no file")
    examples = read(path)
    prompts = set("".join(example.prompt for example in examples))
    completions = set("".join(example.completion for example in examples))
    return character_task(
        path.stem, "".join(prompts | completions), _split(examples, data), "".join(completions)
    )


def read(path: pathlib.Path) -> list[Example]:
    """Returns the examples of a file; empty lines are skipped.

    Raises:
      ValueError: a line is damaged; names file and line.
    """
    with path.open("rb") as lines:
        return [_parse(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def _parse(line: bytes, place: str) -> Example:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as cause:  # RecursionError: brackets nested too deeply
        raise ValueError(f"{place}: not JSON: {cause}") from cause
    fields = [record.get(key) for key in FIELDS] if isinstance(record, dict) else [None]
    if not all(isinstance(field, str) for field in fields):
        raise ValueError(f'{place}: expected {{"prompt": "...", "completion": "..."}}, both text')
    try:
        "".join(fields).encode()
    except UnicodeEncodeError as cause:  # JSON can spell half a surrogate pair, which is no text
        raise ValueError(f"{place}: {cause}") from cause
    return Example(*fields)


def _split(examples: list[Example], data: Any) -> dict[str, list[Example]]:
    # A dict keeps the order of the file, as a set would not: splits are a function of file and seed.
    lines: dict[str, list[str]] = {}
    for example in examples:
        lines.setdefault(example.prompt, []).append(example.completion)
    prompts, held_out = list(lines), data.test + data.validation
    if len(prompts) <= held_out:
        raise ValueError(
            f"data.path={data.path!r} has {len(prompts)} distinct prompts: data.test={data.test} "
            f"and data.validation={data.validation} leave none to train on"
        )
    order = np.random.default_rng(data.seed).permutation(len(prompts))
    ends = np.cumsum([data.test, data.validation, data.train])
    split_of = {}
    for rank, i in enumerate(order[: ends[-1]]):  # prompts beyond data.train are left out
        split_of[prompts[i]] = ("test", "validation", "train")[np.searchsorted(ends, rank, "right")]
    splits: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    asked = set()
    for prompt, completion in ((e.prompt, e.completion) for e in examples if e.prompt in split_of):
        split = split_of[prompt]
        if split == "train" or prompt not in asked:
            references = tuple(dict.fromkeys(lines[prompt]))
            splits[split].append(Example(prompt, completion, references))
        asked.add(prompt)
    return splits
