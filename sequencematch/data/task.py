'''What a task is: examples, the characters that could be mistaken, and a checker of answers.

A task of your own is a function from the configuration's `data` section to a `Task`, in any module
that Python can import. Save the following as reverse.py in the working directory, and
`--config.task=reverse:task` trains on it, without any change to this package:

    """Write a word backwards."""

    import random
    import string

    from sequencematch.data.task import Example, Task


    def spell(number):
        """Turns a number below 26**4 into a word of four letters."""
        letters = string.ascii_lowercase
        return "".join(letters[number // 26**place % 26] for place in range(4))


    def is_reversed(example, text):
        """Whether the text is the word of the prompt, backwards."""
        return text[::-1] == example.prompt.removesuffix(">")


    def task(data):
        """Draws distinct words, so that splits are disjoint, and a function of the seed."""
        sizes = {"test": data.test, "validation": data.validation, "train": data.train}
        numbers = iter(random.Random(data.seed).sample(range(26**4), sum(sizes.values())))
        splits = {}
        for split, size in sizes.items():
            words = [spell(next(numbers)) for _ in range(size)]
            splits[split] = [Example(word + ">", word[::-1]) for word in words]
        letters = string.ascii_lowercase
        return Task("reverse", letters + ">", splits, confusable=letters, check=is_reversed)

A split may be a list, or anything else with a length and `[i]`: examples can be read or made on
demand.
'''

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sequencematch.data.tokenizer import CharTokenizer


class Example(NamedTuple):
    """A question and the answer to learn."""

    prompt: str
    completion: str


class Task(NamedTuple):
    """Everything that the rest of the project knows about a task.

    Attributes:
      name: its name in messages.
      alphabet: the characters of all prompts and completions.
      splits: "train", "validation" and "test", each a sequence of examples.
      confusable: characters that a right one could be mistaken for, at least two; the noise
        `ground_truth` draws from them.
      check: whether a text is a right answer to an example. It must take any text over the alphabet,
        the empty one included, since the model can write any.
      tokenizer: names of the edits -> the tokenizer; None for characters of the alphabet.
      possible: whether a text is the beginning of some right answer to an example; it takes any text,
        and says yes to the beginnings of what it says yes to. None where only the completion is right.
        The statistics of edits need it to tell errors from other right answers.
    """

    name: str
    alphabet: str
    splits: Mapping[str, Sequence[Example]]
    confusable: str
    check: Callable[[Example, str], bool]
    tokenizer: Callable[[tuple[str, ...]], CharTokenizer] | None = None
    possible: Callable[[Example, str], bool] | None = None


def exact_match(example: Example, text: str) -> bool:
    """Whether the text is the completion, character by character."""
    return text == example.completion
