"""A task from files of JSON lines: `{"prompt": ..., "completion": ...}`, or another layout.

A file is read once from begin to end, and every line is checked. After that examples are read by index,
when they are asked for.
"""

import codecs
import json
import pathlib
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from sequencematch.data.fields import (
    Pair,
    WriteChat,
    choose_layout,
    explain_misfit,
    write_turns,
)
from sequencematch.data.lines import Lines
from sequencematch.data.task import Example, Task, character_task
from sequencematch.storage.files import expand

# The file of each split; "" takes the split from data.path.
_PATHS = {"test": "test_path", "validation": "validation_path", "train": "path"}
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # UTF-16's; that of UTF-32 begins with the first
_NAMES = 20  # of unread keys that are told one by one
_CACHE_SIZE = 4096  # prompts of several lines whose completions are kept


class File(NamedTuple):
    """A file that has been read once.

    Attributes:
      lines: its lines.
      fields: their layout, a key of `LAYOUTS`.
      write_chat: writes the prompts of chats.
      prompts: a number for the prompt of each line; prompts that are equal, but for white space, share
        it. It is Python's hash of a text, which in this process takes two of a million different
        prompts for one with a probability of 3e-8.
      characters: those of all prompts, and of all completions.
      facts: what is told of it, by name of `facts.SENTENCES`.
    """

    lines: Lines
    fields: str
    write_chat: WriteChat
    prompts: Int64[np.ndarray, " lines"]
    characters: tuple[str, str]
    facts: Mapping[str, Any]

    def pair(self, index: int) -> Pair:
        """The prompt and the completion of a line."""
        return _pair(self.lines[index], self.fields, self.write_chat)[1]


class Groups(NamedTuple):
    """Lines grouped by their prompt.

    Attributes:
      number: of each line, the number of its prompt; prompts are numbered as they first occur.
      first: the first line of each prompt.
      lines: all lines, those of one prompt together, in the order of the file.
      ends: prompt i has the lines from ends[i] to ends[i + 1].
    """

    number: Int32[np.ndarray, " lines"]
    first: Int32[np.ndarray, " prompts"]
    lines: Int32[np.ndarray, " lines"]
    ends: Int32[np.ndarray, " ends"]


class Split(Sequence[Example]):
    """Some lines of a file as examples, each read from the file when it is asked for.

    Attributes:
      nbytes: bytes of memory that are kept for it.
    """

    def __init__(self, file: File, groups: Groups, rows: Int32[np.ndarray, " rows"], nbytes: int):
        self._file, self._groups, self._rows, self.nbytes = file, groups, rows, nbytes
        self._references = lru_cache(_CACHE_SIZE)(self._read_references)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self._rows[range(len(self))[index]])  # negative indices, and IndexError
        prompt, completion = self._file.pair(row)
        group = int(self._groups.number[row])
        begin, end = self._groups.ends[group : group + 2].tolist()
        return Example(prompt, completion, self._references(group) if end - begin > 1 else ())

    def place(self, index: int) -> str:
        """FILE:LINE of an example."""
        return self._file.lines.place(int(self._rows[index]))

    def _read_references(self, group: int) -> tuple[str, ...]:
        begin, end = self._groups.ends[group : group + 2]
        rows = self._groups.lines[begin:end].tolist()
        return tuple(dict.fromkeys(self._file.pair(row)[1] for row in rows))


def task(data: Any, write_chat: WriteChat = write_turns) -> Task:
    """Reads the files and splits them by prompt: all lines of one prompt fall into the same split.

    Their completions are the right answers to one question. In training every line teaches; in
    validation and test each prompt is asked once. Prompts that differ by white space are one.

    Args:
      data: has `path`; `validation_path` and `test_path`, "" to take these splits from `path`;
        `fields`, a key of `LAYOUTS`; `seed`; and numbers of distinct prompts: `validation` and `test`,
        and `train`, each at most, for a split with a file of its own; there 0 takes all. The held-out
        prompts are drawn first, so they do not depend on `train`. `split` is not read: what makes
        two prompts of a file twins is not known.
      write_chat: writes the prompts of chats, for fields="messages".

    Raises:
      ValueError: a line is damaged, all completions are empty, or there are too few prompts; names
        the file.
      OSError: a file cannot be read.
    """
    paths = {split: getattr(data, key) for split, key in _PATHS.items()}
    files = {
        split: read(_find(f"data.{_PATHS[split]}", path), data.fields, write_chat)
        for split, path in paths.items()
        if path or split == "train"
    }
    splits, facts = _split(files, data)
    for file in files.values():
        for name, found in file.facts.items():
            facts[name] = facts[name] + found if name in facts else found
    facts["unread_keys"] = _shorten(facts["unread_keys"])
    prompts, completions = (
        "".join(set().union(*(file.characters[i] for file in files.values()))) for i in (0, 1)
    )
    name = pathlib.PurePath(data.path.removesuffix(".gz")).stem
    return character_task(name, prompts + completions, splits, completions, facts=facts)


def read(path: pathlib.Path, fields: str, write_chat: WriteChat = write_turns) -> File:
    """Reads a file once; blank lines are skipped.

    Raises:
      ValueError: a line is damaged or has other fields, or all completions are empty; names file and
        line.
    """
    lines, unread, empty = Lines(path), Counter(), 0
    prompts, pairs, characters = array("q"), array("q"), (set(), set())
    layout = choose_layout(fields)
    for n, line in lines.scan():
        try:
            record, pair = _pair(line, fields, write_chat)
        except ValueError as cause:
            raise ValueError(f"{path}:{n}: {cause}") from cause
        prompt, completion = pair
        prompt = " ".join(prompt.split())
        prompts.append(hash(prompt))
        pairs.append(hash((prompt, completion)))
        for seen, text in zip(characters, pair, strict=True):
            seen.update(text)
        unread.update(layout.unread(record))
        empty += not completion
    if empty and empty == len(lines):
        raise ValueError(
            f"{path}: all {empty:,} completions are empty, so there is nothing to learn: are the "
            f"answers under another key? data.fields={fields} reads {layout.shape}"
        )
    found = {
        "unread_keys": unread,
        "repeated_lines": len(lines) - len(np.unique(pairs)),
        "empty_completions": empty,
    }
    alphabets = tuple("".join(sorted(seen)) for seen in characters)
    return File(lines, fields, write_chat, np.asarray(prompts, np.int64), alphabets, found)


def _find(key: str, name: str) -> pathlib.Path:
    if "\0" in name or not (path := expand(name)).is_file():
        raise OSError(f"{key}={name!r} is no file")
    return path


def _pair(line: bytes, fields: str, write_chat: WriteChat) -> tuple[Mapping[str, Any], Pair]:
    """The object in a line, and its prompt and completion.

    Raises:
      ValueError: there is no such object, in UTF-8.
    """
    try:
        record = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as cause:  # RecursionError: brackets nested too deeply
        # JSON has no NUL, and every other byte of UTF-16 is one where letters are Latin.
        if line.startswith(_BYTE_ORDER_MARKS) or b"\0" in line:
            raise ValueError("this is UTF-16 or UTF-32: save the file as UTF-8") from cause
        raise ValueError(f"not JSON: {cause}") from cause
    read_pair = choose_layout(fields, write_chat).read
    pair = read_pair(record) if isinstance(record, dict) else None
    if pair is None:
        raise ValueError(explain_misfit(record, fields))
    if b"\\u" in line:
        "".join(
            pair
        ).encode()  # fails for half a surrogate pair, which JSON can spell, and is no text
    return record, pair


def _shorten(counts: Counter) -> dict[str, int]:
    """The most frequent of the counts by name, and the sum of the others."""
    most = dict(counts.most_common(_NAMES))
    return most | ({"others": counts.total() - sum(most.values())} if counts.keys() - most else {})


def _group(prompts: Int64[np.ndarray, " lines"]) -> Groups:
    _, first, number = np.unique(prompts, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), np.int32)
    rank[order] = np.arange(len(first))
    number = rank[number]
    lines = np.argsort(number, kind="stable").astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(first)))])
    return Groups(number, first[order].astype(np.int32), lines, ends.astype(np.int32))


def _split(files: Mapping[str, File], data: Any) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits; how many prompts they leave out, and how many a file shares with held-out ones."""
    splits, left_out, shared, held_out = {}, {}, 0, np.zeros(0, np.int64)
    for owner, file in files.items():
        groups = _group(file.prompts)
        numbers = file.prompts[groups.first]
        free = np.flatnonzero(~np.isin(numbers, held_out))
        held_out, shared = np.append(held_out, numbers), shared + len(numbers) - len(free)
        takes_rest = owner == "train"
        wanted = [
            split for split in _PATHS if split == owner or (takes_rest and split not in files)
        ]
        sizes = {split: getattr(data, split) for split in wanted}
        _check_enough(data, owner, len(free), sizes, of_its_own=len(files) > 1)
        sizes[owner] = sizes[owner] or len(free)  # 0 takes all
        drawn = np.random.default_rng(data.seed).permutation(len(free))
        parts = np.split(free[drawn], np.cumsum([*sizes.values()]))
        for split, prompts in zip(sizes, parts, strict=False):
            rows = _rows(groups, prompts, each_once=split != "train")
            index = sum(x.nbytes for x in (file.lines, *groups)) if split == owner else 0
            splits[split] = Split(file, groups, rows, rows.nbytes + index)
        left_out[owner] = len(parts[-1])
    ordered = {split: splits[split] for split in reversed(_PATHS)}
    return ordered, {"left_out": left_out, "shared_prompts": shared}


def _rows(groups: Groups, prompts: np.ndarray, each_once: bool) -> Int32[np.ndarray, " rows"]:
    """The lines of some prompts, or the first line of each, in the order of the file."""
    if each_once:
        return np.sort(groups.first[prompts])
    is_chosen = np.zeros(len(groups.first), bool)
    is_chosen[prompts] = True
    return np.flatnonzero(is_chosen[groups.number]).astype(np.int32)


def _check_enough(
    data: Any, owner: str, count: int, sizes: Mapping[str, int], of_its_own: bool
) -> None:
    """Raises ValueError if no prompt of a file is left for the split that takes the rest of it."""
    before = {split: size for split, size in sizes.items() if split != owner}
    if count <= sum(before.values()):
        given = " and ".join(f"data.{split}={size}" for split, size in before.items())
        why = f"{given} leave none to train on" if given else "none is left"
        path = f"data.{_PATHS[owner]}={getattr(data, _PATHS[owner])!r}"
        prompts = "distinct prompts of its own" if of_its_own else "distinct prompts"
        raise ValueError(f"{path} has {count} {prompts}: {why}")
