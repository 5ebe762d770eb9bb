"""What there is room for, and which examples do not fit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sequencematch.data.endings import Ends, measure_ends
from sequencematch.data.noise import Noise
from sequencematch.data.survey import Survey, example_name
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import Tokenizer

LONG = ("refuse", "drop")  # what may be done about examples that do not fit


class Room(NamedTuple):
    """What there is room for.

    Attributes:
      prompt_slots: slots for `<bos>` and a prompt.
      max_actions: decisions of a training episode. Completions to learn must fit here even if the
        method draws no samples, so that all methods learn from the same examples.
      answer_actions: decisions of an answer. Completions of the other splits must fit here, or no
        answer to them could be right.
      slip: how many of these are to be left, to take a slip back.
      stop_at: number of surviving tokens at which an answer stops; 0 for none.
    """

    prompt_slots: int
    max_actions: int
    answer_actions: int
    slip: int
    stop_at: int = 0

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

    def needs(self, split: str, survey: Survey) -> dict[str, Int[np.ndarray, " examples"]]:
        """Key of the configuration -> what each example of a split needs of it."""
        slip = 0 if split == "train" else self.slip
        return {"prompt_slots": survey.prompts, self.key(split): survey.answers + slip}

    def misfits(self, split: str, survey: Survey) -> Int[np.ndarray, " misfits"]:
        """The examples that need more than there is."""
        needs = self.needs(split, survey).items()
        return np.flatnonzero(np.any([need > self.sizes[key] for key, need in needs], axis=0))


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


def check_examples(
    task: Task,
    surveys: Mapping[str, Survey],
    tokenizer: Tokenizer,
    room: Room,
    noise: Noise,
    max_cut: float,
    kept_with: Noise | None = None,
) -> DataFacts:
    """Checks that every example fits, and that noise leaves the training texts their ends.

    Args:
      task, surveys: the examples, and what was found of them.
      tokenizer: has their ids.
      room: what they must fit into.
      noise: of the training texts.
      max_cut: the largest share of them that may lose their `<eos>`.
      kept_with: examples that do not fit are dropped, those of training with this noise: that of all
        methods, which then learn from the same ones. None to refuse them.

    Raises:
      ValueError: examples do not fit.
    """
    misfits = {split: room.misfits(split, survey) for split, survey in surveys.items()}

    def measure(noise: Noise, task: Task) -> Ends:
        return measure_ends(tokenizer, noise, room.max_actions, max_cut, task)

    splits = task.splits
    if kept_with is not None:
        splits = _drop_misfits(task, surveys, misfits, partial(measure, kept_with))
    ends = measure(noise, task._replace(splits=splits))
    too_long = {split: len(task.splits[split]) - len(splits[split]) for split in splits}
    faults = [f"no example of {s} fits" for s in splits if too_long[s] and not len(splits[s])]
    faults += [ends.fault] * bool(ends.fault)
    if faults or (kept_with is None and any(map(len, misfits.values()))):
        faults += _describe_misfits(task, surveys, room, ends.enough, kept_with is not None)
        raise ValueError("; ".join(faults))
    apart, changed = (
        sum(getattr(x, key) for x in surveys.values()) for key in ("apart", "changed")
    )
    found = {"too_long": too_long, "ends_lost": ends.share, "unread_ends": ends.unread}
    found |= {"encoded_apart": apart, "changed_completions": changed}
    nbytes = sum(_kept_bytes(task.splits[split], surveys[split]) for split in splits)
    checksum = list(surveys.values())[-1].checksum
    return DataFacts(checksum, splits, {**task.facts, **found}, nbytes)


def needed_room(
    task: Task,
    surveys: Mapping[str, Survey],
    tokenizer: Tokenizer,
    room: Room,
    noise: Noise,
    max_cut: float,
) -> Room:
    """The same room, with what all examples and their noise take where it has 0.

    But for noise in texts that are cut: it takes the place of their ends. An answer may take as much
    as a training text with its noise, and twice the tokens at which it stops: then a quarter of its
    actions may be edits.

    Args and Raises: as of `check_examples`.
    """
    largest = dict.fromkeys(room.sizes, 0)
    for split, survey in surveys.items():
        for key, need in room.needs(split, survey).items():
            largest[key] = max(largest[key], int(need.max(initial=0)))
    slots, actions, answer = largest.values()
    actions = max(actions, measure_ends(tokenizer, noise, actions, max_cut, task).enough)
    needed = (max(slots, 2), actions, max(answer, actions, 2 * room.stop_at))
    given = (room.prompt_slots, room.max_actions, room.answer_actions)
    return Room(*(a or b for a, b in zip(given, needed, strict=True)), room.slip, room.stop_at)


def longest_examples(task: Task, surveys: Mapping[str, Survey]) -> str:
    """Names the longest prompt and the longest completion of all splits, for messages."""

    def longest(sizes: Mapping[str, Int[np.ndarray, " examples"]]) -> str:
        split = max(sizes, key=lambda split: sizes[split].max(initial=0))
        index = int(sizes[split].argmax())
        return f"of {sizes[split][index]:,} tokens, is that of {example_name(task, split, index)}"

    prompts = {split: survey.prompts for split, survey in surveys.items()}
    answers = {split: survey.answers for split, survey in surveys.items()}
    return f"The longest prompt, {longest(prompts)}; the longest completion, {longest(answers)}"


def _drop_misfits(
    task: Task,
    surveys: Mapping[str, Survey],
    misfits: Mapping[str, Sequence[int]],
    measure: Callable[[Task], Ends],
) -> Mapping[str, Sequence[Example]]:
    """The examples that fit, those of training with what noise adds to them."""
    splits = {s: _leave_out(each, misfits[s]) for s, each in task.splits.items()}
    ends, train = measure(task._replace(splits=splits)), surveys["train"]
    # Texts of other lengths are tried on each turn, so one turn may not do.
    while ends.fault and ends.longest:
        is_left_out = (train.answers > ends.longest) & ~train.is_cut
        is_left_out[misfits["train"]] = True
        splits["train"] = _leave_out(task.splits["train"], np.flatnonzero(is_left_out))
        ends = measure(task._replace(splits=splits))
    return splits


def _leave_out(examples: Sequence[Example], which: Sequence[int]) -> Sequence[Example]:
    return Fitting(examples, which) if len(which) else examples


def _describe_misfits(
    task: Task, surveys: Mapping[str, Survey], room: Room, enough: int, dropped: bool
) -> Iterator[str]:
    """Yields for each size that is too small its longest example, then how many examples do not fit.

    Args:
      task, surveys, room: the examples, what was found of them, and what they must fit into.
      enough: what noise needs of max_actions.
      dropped: whether those that do not fit are left out already.
    """
    needed = {"max_actions": enough} if enough > room.max_actions else {}
    needs = {split: room.needs(split, survey) for split, survey in surveys.items()}
    for key, given in room.sizes.items():
        sizes = {s: int(need[key].max(initial=0)) for s, need in needs.items() if key in need}
        split = max(sizes, key=lambda split: sizes[split], default="")
        if split and sizes[split] > given:
            size, which = sizes[split], example_name(task, split, int(needs[split][key].argmax()))
            is_answer = room.slip and key == room.key("test")
            slip = f", {room.slip} of them to take a slip back" if is_answer else ""
            yield f"config.{key}={given} is too small: {which}, needs {size}{slip}"
            needed[key] = max(size, needed.get(key, 0))
    count = sum(len(room.misfits(split, survey)) for split, survey in surveys.items())
    if not count:
        return
    total = sum(map(len, task.splits.values()))
    flags = " ".join(f"--config.{key}={needed[key]}" for key in room.sizes if key in needed)
    other = "" if dropped else ", --config.data.long=drop leaves them out"
    yield f"in all {count:,} of {total:,} examples do not fit: {flags} makes room for all{other}"


def _kept_bytes(examples: Sequence[Example], survey: Survey) -> int:
    """Bytes of memory that a split keeps: it says so itself, or it is a list."""
    return getattr(examples, "nbytes", survey.nbytes if isinstance(examples, list | tuple) else 0)
