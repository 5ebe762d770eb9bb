'''What a task is: examples, the tokens one could mistake, and a checker.

A task of your own is a function from the configuration's `data` section to a `Task`, in any module
that Python can import. With the following as reverse.py in the working directory,
`--config.task=reverse:task` trains on it, and nothing here has to be edited:

    """Write a word backwards."""

    import random
    import string

    from sequencematch.data.task import Example, Task


    def spell(number):
        """The word of four letters that a number below 26**4 stands for."""
        letters = string.ascii_lowercase
        return "".join(letters[number // 26**place % 26] for place in range(4))


    def is_reversed(example, text):
        """Any text that reads as the prompt from behind is right."""
        return text[::-1] == example.prompt.removesuffix(">")


    def task(data):
        """Words are drawn without repetition: the splits are disjoint, a function of the seed."""
        sizes = {"test": data.test, "validation": data.validation, "train": data.train}
        numbers = iter(random.Random(data.seed).sample(range(26**4), sum(sizes.values())))
        splits = {}
        for split, size in sizes.items():
            words = [spell(next(numbers)) for _ in range(size)]
            splits[split] = [Example(word + ">", word[::-1]) for word in words]
        letters = string.ascii_lowercase
        return Task("reverse", letters + ">", splits, confusable=letters, check=is_reversed)

Lists will do for splits; anything with a length and `[i]` will too, so that examples may be read or
made when they are asked for.
'''

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Example(NamedTuple):
    """A question and the answer to learn."""

    prompt: str
    completion: str


class Task(NamedTuple):
    """Everything the rest of the project knows about a task.

    Attributes:
      name: what reports call it.
      alphabet: the characters of all prompts and completions.
      splits: "train", "validation" and "test"; each gives example i by `[i]`.
      confusable: characters that a right one could be mistaken for, two at least; the noise
        `ground_truth` draws from them.
      check: whether a text is a right answer to an example; the model writes any text of the
        alphabet, and none at all.
    """

    name: str
    alphabet: str
    splits: Mapping[str, Sequence[Example]]
    confusable: str
    check: Callable[[Example, str], bool]


def exact(example: Example, text: str) -> bool:
    """Whether the text is the completion, character by character."""
    return text == example.completion
