"""One pass over all examples before any training: what does not fit, and what is known of the rest."""

import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sequencematch.data.endings import Ends, measure_ends
from sequencematch.data.episodes import answer_ids, prompt_ids
from sequencematch.data.noise import Noise
from sequencematch.data.progress import tell_progress
from sequencematch.data.task import Example, Task, example_bytes
from sequencematch.data.tokenizer import Tokenizer

LONG = ("refuse", "drop")  # what may be done about examples that do not fit
_LETTERS = 60  # of a prompt in messages
_ANY = 2**31  # more than any text takes


class Room(NamedTuple):
    """What there is room for.

    Attributes:
      prompt_slots: slots for `<bos>` and a prompt.
      max_actions: decisions of a training episode. Completions to learn must fit here even if the
        method draws no samples, so that all methods learn from the same examples.
      answer_actions: decisions of an answer. Completions of the other splits must fit here, or no
        answer to them could be right.
      slip: how many of these are to be left, to take a slip back.
    """

    prompt_slots: int
    max_actions: int
    answer_actions: int
    slip: int

    def key(self, split: str) -> str:
        """The key of the configuration that a split's completions must fit into."""
        return "max_actions" if split == "train" else "evaluate.max_actions"

    @property
    def sizes(self) -> dict[str, int]:
        """Each key of the configuration with its value."""
        return {
            "prompt_slots": self.prompt_slots,
            "max_actions": self.max_actions,
            "evaluate.max_actions": self.answer_actions,
        }


class DataFacts(NamedTuple):
    """What one pass over the examples finds.

    Attributes:
      checksum: of all that decides the batches.
      splits: the examples that fit.
      found: what is told of the data, by name of `facts.SENTENCES`.
      nbytes: bytes of memory that the examples keep.
    """

    checksum: int
    splits: Mapping[str, Sequence[Example]]
    found: Mapping[str, Any]
    nbytes: int


class Fitting(Sequence[Example]):
    """The examples of a split that fit, without the others."""

    def __init__(self, examples: Sequence[Example], misfits: Sequence[int]):
        self._examples = examples
        self._which = np.delete(np.arange(len(examples)), misfits)

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, index: int) -> Example:
        return self._examples[int(self._which[index])]


class Survey(NamedTuple):
    """What is found of one split.

    Attributes:
      largest: key of the configuration -> (the largest size that an example needs, which one).
      misfits: the examples that need more than there is.
      lengths: of each completion with its `<eos>`; 0 for one that is cut.
      apart: number of examples whose completion is encoded without its prompt (`AnswerIds`).
      nbytes: bytes of all examples.
      checksum: of all splits up to this one.
    """

    largest: dict[str, tuple[int, int]]
    misfits: array
    lengths: array
    apart: int
    nbytes: int
    checksum: int


def check_examples(
    task: Task, tokenizer: Tokenizer, room: Room, noise: Noise, max_cut: float, long: str
) -> DataFacts:
    """Checks that every example fits, and that noise leaves the training texts their ends.

    Args:
      task, tokenizer: the examples and their ids.
      room: what they must fit into.
      noise: of the training texts.
      max_cut: the largest share of them that may lose their `<eos>`.
      long: what is done about examples that do not fit, one of `LONG`.

    Raises:
      ValueError: examples do not fit, or one teaches nothing or has a text without ids.
    """
    # Ids count too, which another alphabet or another order changes, and what noise is drawn from.
    drawn = sorted(set(task.confusable(tokenizer)))
    checksum = zlib.crc32(repr((tokenizer.fingerprint, drawn)).encode())
    surveys: dict[str, Survey] = {}
    for split in task.splits:
        surveys[split] = _survey(task, split, tokenizer, room, checksum)
        checksum = surveys[split].checksum
    measure = partial(measure_ends, tokenizer, noise, room.max_actions, max_cut)
    drop = _drop_misfits if long == "drop" else _drop_none
    splits, ends = drop(task, surveys, measure)
    too_long = {split: len(task.splits[split]) - len(splits[split]) for split in splits}
    faults = [f"no example of {s} fits" for s in splits if too_long[s] and not len(splits[s])]
    faults += [ends.fault] * bool(ends.fault)
    if faults or (long == "refuse" and any(survey.misfits for survey in surveys.values())):
        faults += _describe_misfits(task, surveys, room, ends.enough)
        raise ValueError("; ".join(faults))
    apart = sum(survey.apart for survey in surveys.values())
    found = {"too_long": too_long, "ends_lost": ends.share, "encoded_apart": apart}
    nbytes = sum(_kept_bytes(task.splits[split], surveys[split]) for split in splits)
    return DataFacts(checksum, splits, {**task.facts, **found}, nbytes)


def needed_room(task: Task, tokenizer: Tokenizer, room: Room, noise: Noise, max_cut: float) -> Room:
    """The same room, with what all examples and their noise take where it has 0.

    An answer may take as much as a training text with its noise.

    Args and Raises: as of `check_examples`.
    """
    anything = Room(_ANY, _ANY, _ANY, room.slip)
    largest = dict.fromkeys(room.sizes, 0)
    for split in task.splits:
        for key, (size, _) in _survey(task, split, tokenizer, anything, 0).largest.items():
            largest[key] = max(largest[key], size)
    slots, actions, answer = largest.values()
    actions = max(actions, measure_ends(tokenizer, noise, actions, max_cut, task).enough)
    needed = (max(slots, 2), actions, max(answer, actions))
    given = (room.prompt_slots, room.max_actions, room.answer_actions)
    return Room(*(size or need for size, need in zip(given, needed, strict=True)), room.slip)


def _drop_none(
    task: Task, surveys: Mapping[str, Survey], measure: Callable[[Task], Ends]
) -> tuple[Mapping[str, Sequence[Example]], Ends]:
    """All examples, and what noise does to the ends of the training texts."""
    del surveys
    return task.splits, measure(task)


def _drop_misfits(
    task: Task, surveys: Mapping[str, Survey], measure: Callable[[Task], Ends]
) -> tuple[Mapping[str, Sequence[Example]], Ends]:
    """The examples that fit, those of training with what noise adds to them."""
    splits = {s: _leave_out(each, surveys[s].misfits) for s, each in task.splits.items()}
    ends, lengths = measure(task._replace(splits=splits)), np.asarray(surveys["train"].lengths)
    # Texts of other lengths are tried on each turn, so one turn may not do.
    while ends.fault and ends.longest:
        is_left_out = lengths > ends.longest
        is_left_out[surveys["train"].misfits] = True
        splits["train"] = _leave_out(task.splits["train"], np.flatnonzero(is_left_out))
        ends = measure(task._replace(splits=splits))
    return splits, ends


def _leave_out(examples: Sequence[Example], which: Sequence[int]) -> Sequence[Example]:
    return Fitting(examples, which) if len(which) else examples


def _survey(task: Task, split: str, tokenizer: Tokenizer, room: Room, checksum: int) -> Survey:
    examples, sizes, key = task.splits[split], room.sizes, room.key(split)
    allowed = (frozenset(range(tokenizer.vocab_size)), frozenset(tokenizer.ordinary))
    largest, misfits, lengths, apart, nbytes = {}, array("q"), array("i"), 0, 0
    seen: set[int] = set()
    what, count = f"checking {task.name}, {split}", len(examples)
    for i in tell_progress(range(count), what, lambda done: done / count):
        example = examples[i]
        checksum = zlib.crc32(repr((split, example)).encode(), checksum)
        prompt = prompt_ids(tokenizer, example.prompt)
        before = prompt[tokenizer.bos is not None :]
        answer = answer_ids(tokenizer, example.prompt, example.completion, before)
        _check_ids(allowed, prompt, answer.ids, task, split, i)
        for text in _unseen_references(example, seen):
            others = answer_ids(tokenizer, example.prompt, text, before).ids
            _check_ids(allowed, prompt, others, task, split, i)
        needed = len(answer.ids) + (not example.cut)  # 1 for <eos>
        if not needed:
            which = _name(task, split, i)
            raise ValueError(f"{which}: it is cut and has no completion, so it teaches nothing")
        needs = {"prompt_slots": len(prompt), key: needed + room.slip * (split != "train")}
        for name, size in needs.items():
            largest[name] = max(largest.get(name, (0, 0)), (size, -i))
        if any(size > sizes[name] for name, size in needs.items()):
            misfits.append(i)
        lengths.append(0 if example.cut else needed)
        apart, nbytes = apart + answer.is_apart, nbytes + example_bytes(example)
    largest = {name: (size, -i) for name, (size, i) in largest.items()}
    return Survey(largest, misfits, lengths, apart, nbytes, checksum)


def _unseen_references(example: Example, seen: set[int]) -> Sequence[str]:
    """The references, unless they are the completion alone or those of an earlier example.

    Args:
      example: one that may share its references with many others.
      seen: hashes of prompts with their references, to which these are added.
    """
    group = hash((example.prompt, example.references))
    if example.references == (example.completion,) or group in seen:
        return ()
    seen.add(group)
    return example.references


def _check_ids(
    allowed: tuple[frozenset[int], frozenset[int]],
    prompt: Sequence[int],
    answer: Sequence[int],
    task: Task,
    split: str,
    index: int,
) -> None:
    """Raises ValueError for an id that the vocabulary lacks, or that no decision can take."""
    vocabulary, ordinary = allowed
    if not vocabulary.issuperset(prompt):
        raise ValueError(
            f"{_name(task, split, index)}: the tokenizer encodes its prompt with ids "
            f"{sorted(set(prompt) - vocabulary)}, which are none"
        )
    if not ordinary.issuperset(answer):
        raise ValueError(
            f"{_name(task, split, index)}: the tokenizer encodes its answer with ids "
            f"{sorted(set(answer) - ordinary)}, which are not among its `ordinary` ones"
        )


def _name(task: Task, split: str, index: int) -> str:
    """An example in messages: its place, if that is known, and the beginning of its prompt."""
    examples = task.splits[split]
    place = getattr(examples, "place", "example {}".format)(index)
    prompt = examples[index].prompt
    shown = repr(prompt if len(prompt) <= _LETTERS else prompt[:_LETTERS] + "...")
    return f"{place} of {split}, {shown}"


def _describe_misfits(
    task: Task, surveys: Mapping[str, Survey], room: Room, enough: int
) -> Iterator[str]:
    """Yields for each size that is too small its longest example, then how many examples do not fit.

    Args:
      task, surveys, room: the examples, what was found of them, and what they must fit into.
      enough: what noise needs of max_actions.
    """
    needed = {"max_actions": enough} if enough > room.max_actions else {}
    for key, given in room.sizes.items():
        sizes = {split: s.largest[key] for split, s in surveys.items() if key in s.largest}
        split = max(sizes, key=lambda split: sizes[split][0], default="")
        if split and sizes[split][0] > given:
            size, index = sizes[split]
            is_answer = room.slip and key == room.key("test")
            slip = f", {room.slip} of them to take a slip back" if is_answer else ""
            which = _name(task, split, index)
            yield f"config.{key}={given} is too small: {which}, needs {size}{slip}"
            needed[key] = max(size, needed.get(key, 0))
    count = sum(len(survey.misfits) for survey in surveys.values())
    if not count:
        return
    total = sum(map(len, task.splits.values()))
    flags = " ".join(f"--config.{key}={needed[key]}" for key in room.sizes if key in needed)
    yield (
        f"in all {count:,} of {total:,} examples do not fit: {flags} makes room for all, "
        "--config.data.long=drop leaves them out"
    )


def _kept_bytes(examples: Sequence[Example], survey: Survey) -> int:
    """Bytes of memory that a split keeps: it says so itself, or it is a list."""
    return getattr(examples, "nbytes", survey.nbytes if isinstance(examples, list | tuple) else 0)
