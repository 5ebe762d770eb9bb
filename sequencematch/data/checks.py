"""One pass over all examples before any training: what does not fit, and a checksum."""

import zlib

from sequencematch.data.task import Task
from sequencematch.data.tokenizer import CharTokenizer


def check_examples(
    task: Task,
    tokenizer: CharTokenizer,
    *,
    prompt_slots: int,
    max_actions: int,
    answer_actions: int,
) -> int:
    """Reads all examples, and says before any training what would not fit; returns a checksum.

    It is of all that decides batches: the examples, and the characters that ids and noise are made of.

    Args:
      task, tokenizer: the examples and their alphabet.
      prompt_slots: for `<bos>` and a prompt.
      max_actions: decisions of a sampled episode, which must be able to be what is learnt, so that
        methods with samples and without learn from the same examples.
      answer_actions: decisions of an answer, which must be able to be right.

    Raises:
      ValueError: an example does not fit, or has characters outside the alphabet.
    """
    characters = [sorted({*text}) for text in (task.alphabet, task.confusable)]
    checksum = zlib.crc32(repr(characters).encode())
    for split, examples in task.splits.items():
        learnt = split == "train"
        limit = ("max_actions", max_actions) if learnt else ("evaluate.max_actions", answer_actions)
        for i in range(len(examples)):
            example = examples[i]
            checksum = zlib.crc32(repr((split, *example)).encode(), checksum)
            prompt, answer = map(tokenizer.encode, example)
            which = f"example {i} of {split}, {example.prompt!r}"
            _check_fits("prompt_slots", prompt_slots, 1 + len(prompt), which)
            _check_fits(*limit, len(answer) + 1, which)
    return checksum


def _check_fits(key: str, given: int, needed: int, which: str) -> None:
    if given < needed:
        raise ValueError(f"config.{key}={given} is too small: {which}, needs {needed}")
