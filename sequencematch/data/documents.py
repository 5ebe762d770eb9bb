"""Which documents of a corpus teach, which ask, and which are left out."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sequencematch.data.subword import SubwordTokenizer
from sequencematch.data.tokenizer import Tokenizer

# What is counted, names of `facts.SENTENCES`.
COUNTED = (
    "documents",
    "repeated_documents",
    "special_documents",
    "foreign_documents",
    "short_documents",
)
_DOCUMENTS, _CHARACTERS = 1000, 2**20  # that are encoded at once


def shares(data: Any) -> dict[str, float]:
    """The share of the documents that each split has; train has what is left."""
    return {"test": data.test_share, "validation": data.test_share / 2, "train": 1.0}


def distinct(
    documents: Iterable[str], data: Any, facts: dict[str, int]
) -> Iterator[tuple[str, str]]:
    """Yields (split, document), of documents that are equal but for case and white space the first.

    Args:
      documents: in the order of the corpus.
      data: has `seed` and `test_share` of the split, which a hash of the text decides.
      facts: counts of documents, to be raised.
    """
    seen: set[int] = set()
    for document in documents:
        plain = " ".join(document.lower().split())
        digest = hashlib.blake2b(f"{data.seed} {plain}".encode(), digest_size=16).digest()
        number, place = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        facts["documents"] += 1
        if number in seen:
            facts["repeated_documents"] += 1
            continue
        seen.add(number)
        yield _split_at(place / 2**64, shares(data)), document


def plain_documents(
    documents: Iterable[tuple[str, str]], tokenizer: Tokenizer, facts: dict[str, int]
) -> Iterator[tuple[str, str]]:
    """Yields the documents whose characters all have ids, and that spell no special token of a model.

    Such as <filename>: they would be encoded with it, and it is no token of a text.
    """
    if not isinstance(tokenizer, SubwordTokenizer):
        yield from documents  # elsewhere every text is a text
        return
    special = sorted({*range(tokenizer.vocab_size)} - {*tokenizer.ordinary})
    pattern = re.compile("|".join(map(re.escape, tokenizer.symbols(special))))
    for split, document in documents:
        if pattern.search(document):
            facts["special_documents"] += 1
        elif tokenizer.lost_characters(document):
            facts["foreign_documents"] += 1
        else:
            yield split, document


def _split_at(place: float, shares: Mapping[str, float]) -> str:
    """The split that has a place in [0, 1]."""
    ends = zip(shares, itertools.accumulate(shares.values()), strict=True)
    return next(split for split, end in ends if place < end)


def groups(documents: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Yields documents in groups that are neither many nor long."""
    group, size = [], 0
    for each in documents:
        group.append(each)
        size += len(each[1])
        if len(group) == _DOCUMENTS or size > _CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
