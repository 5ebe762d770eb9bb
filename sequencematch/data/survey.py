"""One pass over all examples before any training: their sizes, and whether their ids are ids.

What is found of windows of text is kept beside them, for the next run with the same tokenizer.
"""

import zlib
from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from sequencematch.data.episodes import answer_ids, prompt_ids
from sequencematch.data.progress import tell_progress
from sequencematch.data.task import Example, Task, example_bytes
from sequencematch.data.tokenizer import Tokenizer, quote

_VERSION = 2  # of what is kept


class Survey(NamedTuple):
    """What is found of one split.

    Attributes:
      prompts: slots that each prompt takes, with its `<bos>`.
      answers: decisions that each completion takes, with its `<eos>`.
      is_cut: whether a completion has none.
      apart: number of examples whose completion is encoded without its prompt (`AnswerIds`).
      changed: number of completions that their ids do not spell; of open texts none is looked for.
      nbytes: bytes of all examples.
      checksum: of all splits up to this one.
    """

    prompts: Int[np.ndarray, " examples"]
    answers: Int[np.ndarray, " examples"]
    is_cut: Bool[np.ndarray, " examples"]
    apart: int
    changed: int
    nbytes: int
    checksum: int


@runtime_checkable
class Keeps(Protocol):
    """Examples beside which arrays are kept, under a key of 32 bits."""

    def recall(self, key: int) -> dict[str, np.ndarray] | None: ...

    def keep(self, key: int, arrays: Mapping[str, np.ndarray]) -> None: ...


def survey_examples(task: Task, tokenizer: Tokenizer) -> dict[str, Survey]:
    """Reads all examples once; returns what is found of each split.

    Raises:
      ValueError: an example teaches nothing or has a text without ids, or noise would push what is no
        token of a text.
    """
    # Ids count too, which another alphabet or another order changes, and what noise is drawn from.
    drawn = sorted(set(task.confusable(tokenizer)))
    _check_noise(task, tokenizer, drawn)
    checksum = zlib.crc32(repr((tokenizer.fingerprint, drawn)).encode())
    surveys: dict[str, Survey] = {}
    for split in task.splits:
        surveys[split] = _recall_or_survey(task, split, tokenizer, checksum)
        checksum = surveys[split].checksum
    return surveys


def _check_noise(task: Task, tokenizer: Tokenizer, drawn: Sequence[int]) -> None:
    """Raises ValueError for ordinary ids that are special, or ids to push that are not ordinary."""
    special = {tokenizer.bos, tokenizer.eos, tokenizer.pad, *tokenizer.pops} & {*tokenizer.ordinary}
    if special:
        raise ValueError(
            f"{task.name}: the tokenizer's `ordinary` ids hold {sorted(special)}, which begin, end or "
            "fill up texts, or edit them"
        )
    if strange := {*drawn} - {*tokenizer.ordinary}:
        raise ValueError(
            f"{task.name}: `confusable` gives ids {sorted(strange)}, which are not among the "
            "tokenizer's `ordinary` ones"
        )


def _recall_or_survey(task: Task, split: str, tokenizer: Tokenizer, checksum: int) -> Survey:
    """What is found of a split; where it is kept, it is found once.

    The key tells splits before this one and tokenizers apart, and the examples what they consist of.
    """
    examples = task.splits[split]
    if not isinstance(examples, Keeps):
        return _survey(task, split, tokenizer, checksum)
    key = zlib.crc32(f"{_VERSION} {split}".encode(), checksum)
    known = examples.recall(key)
    if known is not None:
        numbers = {name: x if x.ndim else int(x) for name, x in known.items()}
        return Survey(**numbers)
    found = _survey(task, split, tokenizer, checksum)
    examples.keep(key, {name: np.asarray(x) for name, x in found._asdict().items()})
    return found


def _survey(task: Task, split: str, tokenizer: Tokenizer, checksum: int) -> Survey:
    examples = task.splits[split]
    allowed = (frozenset(range(tokenizer.vocab_size)), frozenset(tokenizer.ordinary))
    prompts, answers, is_cut = array("i"), array("i"), array("b")
    apart = changed = nbytes = 0
    seen: set[int] = set()
    what, count = f"checking {task.name}, {split}", len(examples)
    for i in tell_progress(range(count), what, lambda done: done / count):
        example = examples[i]
        checksum = zlib.crc32(repr((split, example)).encode(), checksum)
        try:
            prompt = prompt_ids(tokenizer, example.prompt)
            before = prompt[tokenizer.bos is not None :]
            answer = answer_ids(tokenizer, example.prompt, example.completion, before)
        except ValueError as error:
            raise ValueError(f"{example_name(task, split, i)}: {error}") from error
        _check_ids(allowed, prompt, answer.ids, task, split, i)
        for text in _unseen_references(example, seen):
            others = answer_ids(tokenizer, example.prompt, text, before).ids
            _check_ids(allowed, prompt, others, task, split, i)
        needed = len(answer.ids) + (not example.cut)  # 1 for <eos>
        if not needed:
            which = example_name(task, split, i)
            raise ValueError(f"{which}: it is cut and has no completion, so it teaches nothing")
        prompts.append(len(prompt))
        answers.append(needed)
        is_cut.append(example.cut)
        apart, nbytes = apart + answer.is_apart, nbytes + example_bytes(example)
        changed += not task.is_open and tokenizer.decode(answer.ids) != example.completion
    sizes = (np.asarray(prompts), np.asarray(answers), np.asarray(is_cut, bool))
    return Survey(*sizes, apart, changed, nbytes, checksum)


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
            f"{example_name(task, split, index)}: the tokenizer encodes its prompt with ids "
            f"{sorted(set(prompt) - vocabulary)}, which are none"
        )
    if not ordinary.issuperset(answer):
        raise ValueError(
            f"{example_name(task, split, index)}: the tokenizer encodes its answer with ids "
            f"{sorted(set(answer) - ordinary)}, which are not among its `ordinary` ones"
        )


def example_name(task: Task, split: str, index: int) -> str:
    """An example in messages: its place, if that is known, and the beginning of its prompt."""
    examples = task.splits[split]
    place = getattr(examples, "place", "example {}".format)(index)
    return f"{place} of {split}, {quote(examples[index].prompt)}"
