"""How questions are divided into test, validation and training questions.

Twins, questions about the same numbers (such as `mathematics.twin_key` tells), are nearly one question:
whoever has learnt `37 + 5` knows `-5 - 37` too. A test set whose twins are in the training set measures
memory.
"""

import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

from sequencematch.data.task import Example

# Split -> share of the groups of twins. Sizes in these proportions reach equally deep into the stream,
# and so the splits are alike: deeper in a stream of distinct questions small numbers are rarer, since
# they have had their turn.
SHARES = {"test": 0.2, "validation": 0.1, "train": 0.7}
# Repeated questions in a row, or ones of other splits, before a stream is given up.
_PATIENCE = 1000

TwinKey = Callable[[Example], Hashable]  # what twins have in common; its repr is hashed


def by_prompt(
    stream: Iterator[Example], seed: int, twin_key: TwinKey
) -> Mapping[str, Iterator[Example]]:
    """The same stream for all splits: each goes on where the one before it has stopped."""
    del seed, twin_key
    return dict.fromkeys(SHARES, stream)


def by_twins(
    stream: Iterator[Example], seed: int, twin_key: TwinKey
) -> Mapping[str, Iterator[Example]]:
    """For each split the questions of its groups of twins, in the order of the stream."""
    copies = itertools.tee(stream, len(SHARES))
    return {
        split: keep_split(copy, split, seed, twin_key)
        for split, copy in zip(SHARES, copies, strict=True)
    }


SPLITS: Mapping[
    str, Callable[[Iterator[Example], int, TwinKey], Mapping[str, Iterator[Example]]]
] = {
    "twins": by_twins,
    "prompt": by_prompt,
}


def distinct(
    examples: Iterable[Example],
    what: str,
    advice: str = "lower data.train, data.validation, data.test",
) -> Iterator[Example]:
    """Yields the examples whose prompt was not there before.

    Args:
      examples: in the order of the stream, without end.
      what: makes them, in words.
      advice: what to do if there are too few.

    Raises:
      ValueError: 1000 repetitions in a row: there are no more.
    """
    seen, repeats = set(), 0
    for example in examples:
        repeats = repeats + 1 if example.prompt in seen else 0
        if repeats == _PATIENCE:
            raise ValueError(f"{what} has only about {len(seen)} different questions: {advice}")
        if not repeats:
            seen.add(example.prompt)
            yield example


def keep_split(
    examples: Iterable[Example], split: str, seed: int, twin_key: TwinKey
) -> Iterator[Example]:
    """Yields the examples whose group of twins belongs to a split.

    Raises:
      ValueError: 1000 examples in a row belong to other splits.
    """
    misses = 0
    for example in examples:
        if split_of(example, seed, twin_key) == split:
            misses = 0
            yield example
        elif (misses := misses + 1) == _PATIENCE:
            raise ValueError(
                f"data.split='twins' finds no further {split} questions: too many are about the same "
                "numbers; draw from more (data.entropy of arithmetic, data.numbers of countdown), or "
                "set data.split to 'prompt'"
            )


def split_of(example: Example, seed: int, twin_key: TwinKey) -> str:
    """The split of an example's twins, by a hash of the seed and what they have in common.

    Not by which group comes first in the stream: the groups that come often would be held out, and
    the training questions would differ from the others in kind.
    """
    digest = hashlib.sha256(repr((seed, twin_key(example))).encode()).digest()
    place, end = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split, share in SHARES.items():
        end += share
        if place < end:
            return split
    return split  # the shares add up to 1 but for an ulp
