"""One pass over all examples before any training: what does not fit, and what is known of the rest."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

from sequencematch.data.episodes import answer_ids, prompt_ids
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import Tokenizer


class DataFacts(NamedTuple):
    """What one pass over the examples finds.

    Attributes:
      checksum: of all that decides the batches.
      apart: number of examples whose completion is encoded without its prompt (`AnswerIds`).
    """

    checksum: int
    apart: int


def check_examples(
    task: Task,
    tokenizer: Tokenizer,
    *,
    prompt_slots: int,
    max_actions: int,
    answer_actions: int,
) -> DataFacts:
    """Checks that every example fits.

    Args:
      task, tokenizer: the examples and their ids.
      prompt_slots: room for `<bos>` and a prompt.
      max_actions: decisions of a sampled episode. Completions to learn must fit here even if the
        method draws no samples, so that all methods learn from the same examples.
      answer_actions: decisions of an answer. Completions of the other splits must fit here, or no
        answer to them could be right.

    Raises:
      ValueError: an example does not fit, teaches nothing, or has a text without ids.
    """
    # Ids count too, which another alphabet or another order changes, and what noise is drawn from.
    drawn = sorted(set(task.confusable(tokenizer)))
    checksum, apart = zlib.crc32(repr((tokenizer.fingerprint, drawn)).encode()), 0
    allowed = (frozenset(range(tokenizer.vocab_size)), frozenset(tokenizer.ordinary))
    for split, examples in task.splits.items():
        is_train = split == "train"
        limit = (
            ("max_actions", max_actions) if is_train else ("evaluate.max_actions", answer_actions)
        )
        for i in range(len(examples)):
            example = examples[i]
            checksum = zlib.crc32(repr((split, example)).encode(), checksum)
            which = f"example {i} of {split}, {example.prompt!r}"
            prompt = prompt_ids(tokenizer, example.prompt)
            answers = [answer_ids(tokenizer, example.prompt, text) for text in _texts(example)]
            _check_ids(allowed, prompt, [answer.ids for answer in answers], which)
            _check_fits("prompt_slots", prompt_slots, len(prompt), which)
            needed = len(answers[0].ids) + (not example.cut)  # 1 for <eos>
            if not needed:
                raise ValueError(f"{which}: it is cut and has no completion, so it teaches nothing")
            _check_fits(*limit, needed, which)
            apart += answers[0].is_apart
    return DataFacts(checksum, apart)


def _texts(example: Example) -> list[str]:
    """The completion, then the other texts that answers are compared with."""
    return list(dict.fromkeys([example.completion, *example.references]))


def _check_ids(
    allowed: tuple[frozenset[int], frozenset[int]],
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    which: str,
) -> None:
    """Raises ValueError for an id that the vocabulary lacks, or that no decision can take."""
    vocabulary, ordinary = allowed
    unknown = sorted(set(prompt) - vocabulary)
    if unknown:
        raise ValueError(
            f"{which}: the tokenizer encodes its prompt with ids {unknown}, which are none"
        )
    impossible = sorted(set().union(*answers) - ordinary)
    if impossible:
        raise ValueError(
            f"{which}: the tokenizer encodes its answer with ids {impossible}, which are not among "
            "its `ordinary` ones"
        )


def _check_fits(key: str, given: int, needed: int, which: str) -> None:
    if given < needed:
        raise ValueError(f"config.{key}={given} is too small: {which}, needs {needed}")
