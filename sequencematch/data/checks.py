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
    """Checks that every example fits, and returns a checksum of all that decides the batches.

    Args:
      task, tokenizer: the examples and their alphabet.
      prompt_slots: room for `<bos>` and a prompt.
      max_actions: decisions of a sampled episode. Completions to learn must fit here even if the
        method draws no samples, so that all methods learn from the same examples.
      answer_actions: decisions of an answer. Completions of the other splits must fit here, or no
        answer to them could be right.

    Raises:
      ValueError: an example does not fit, or has characters outside the alphabet.
    """
    # Ids count too, which another alphabet or another order changes, and what noise is drawn from.
    drawn = [sorted({*text}) for text in (task.alphabet, task.confusable)]
    checksum = zlib.crc32(repr((tokenizer.fingerprint, drawn)).encode())
    for split, examples in task.splits.items():
        is_train = split == "train"
        limit = (
            ("max_actions", max_actions) if is_train else ("evaluate.max_actions", answer_actions)
        )
        for i in range(len(examples)):
            example = examples[i]
            checksum = zlib.crc32(repr((split, *example)).encode(), checksum)
            prompt, answer = map(tokenizer.encode, example)
            which = f"example {i} of {split}, {example.prompt!r}"
            _check_fits("prompt_slots", prompt_slots, 1 + len(prompt), which)  # 1 for <bos>
            _check_fits(*limit, len(answer) + 1, which)  # 1 for <eos>
    return checksum


def _check_fits(key: str, given: int, needed: int, which: str) -> None:
    if given < needed:
        raise ValueError(f"config.{key}={given} is too small: {which}, needs {needed}")
