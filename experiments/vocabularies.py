"""Texts with as many ids as a language model has, to measure networks of their sizes."""

from functools import partial
from typing import Any

from sequencematch.data import arithmetic
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import CharTokenizer


def with_vocabulary(ids: int, length: int, data: Any) -> Task:
    """Arithmetic whose tokenizer has about so many ids, most of which are not used.

    Answers are written again and again, to so many characters, so that a step reads as many states as
    one of running text.
    """
    task, others = arithmetic.task(data), "".join(map(chr, range(0x10000, 0x10000 + ids)))
    alphabet = task.tokenizer(edits=()).alphabet
    splits = {
        name: [Example(x.prompt, (x.completion * length)[:length]) for x in examples]
        for name, examples in task.splits.items()
    }
    return task._replace(splits=splits, tokenizer=partial(CharTokenizer, alphabet + others))


# By the vocabularies of SmolLM2 and Llama 3; with noise answers fill 64 and 512 actions.
SMALL, LARGE = partial(with_vocabulary, 49_152, 40), partial(with_vocabulary, 128_256, 380)
TOY = partial(with_vocabulary, 49_152, 8)
