"""Arithmetic with as many ids as a language model has, to measure networks of their sizes."""

from functools import partial
from typing import Any

from sequencematch.data import arithmetic
from sequencematch.data.task import Task
from sequencematch.data.tokenizer import CharTokenizer


def with_vocabulary(ids: int, data: Any) -> Task:
    """Arithmetic whose tokenizer has about so many ids, most of which are not used."""
    task, others = arithmetic.task(data), "".join(map(chr, range(0x10000, 0x10000 + ids)))
    alphabet = task.tokenizer(edits=()).alphabet
    return task._replace(tokenizer=partial(CharTokenizer, alphabet + others))


# By the vocabularies of SmolLM2 and Llama 3.
SMALL, LARGE = partial(with_vocabulary, 49_152), partial(with_vocabulary, 128_256)
