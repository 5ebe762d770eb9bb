'''What a task is: examples, a tokenizer, what could be mistaken, and how answers are judged.

A task of your own is a function from the configuration's `data` section to a `Task`, in any module
that Python can import. Save the following as reverse.py in the working directory, and
`--config.task=reverse:task` trains on it, without any change to this package:

    """Write a word backwards."""

    import random
    import string

    from sequencematch.data.task import Example, character_task


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
        return character_task("reverse", letters + ">", splits, letters, check=is_reversed)

A split may be a list, or anything else with a length and `[i]`: examples can be read or made on
demand. If it also has `place(i)`, such as "FILE:LINE", messages name an example by it, and if it has
`nbytes`, the memory that it keeps is counted.
'''

import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from sequencematch.data.tokenizer import CharTokenizer, Tokenizer, encode_within


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt, and the text to learn after it.

    Attributes:
      prompt: the text before the first decision; it may be empty.
      completion: the text to learn.
      references: the right answers; by default the completion alone.
      cut: whether the completion goes on where it ends here, as a window of running text does: then no
        `<eos>` is learnt after it.
    """

    prompt: str
    completion: str
    references: tuple[str, ...] = ()
    cut: bool = False

    def __post_init__(self):
        if not self.references:
            object.__setattr__(self, "references", (self.completion,))  # the class is frozen


def example_bytes(example: Example) -> int:
    """About how many bytes of memory an example takes, references that are its completion aside."""
    others = [text for text in example.references if text is not example.completion]
    return sum(map(sys.getsizeof, (example, example.prompt, example.completion, *others)))


def exact_match(example: Example, text: str) -> bool:
    """Whether the text is a reference, character by character."""
    return text in example.references


def ordinary_ids(tokenizer: Tokenizer) -> Sequence[int]:
    """All ids that a text is made of."""
    return tokenizer.ordinary


def character_ids(characters: str) -> Callable[[Tokenizer], list[int]]:
    """Returns the function tokenizer -> ids of these characters, for `Task.confusable`."""
    return lambda tokenizer: sorted({i for c in characters for i in encode_within(tokenizer, c)})


class Task(NamedTuple):
    """Everything that the rest of the project knows about a task.

    Attributes:
      name: its name in messages.
      splits: "train", "validation" and "test", each a sequence of examples.
      tokenizer: names of the edits -> the tokenizer.
      confusable: tokenizer -> ids that a right one could be mistaken for, at least two; the noise
        `ground_truth` draws from them.
      check: whether a text is a right answer to an example. It must take any text, the empty one
        included, since the model can write any.
      possible: whether a text is the beginning of some right answer to an example; it takes any text,
        and says yes to the beginnings of what it says yes to. None where only references are right.
        The statistics of edits need it to tell errors from other right answers.
      metrics: what is measured of answers: keys of `evaluate.metrics.METRICS`, or functions
        (examples, answers) -> figures by name. An answer has `text`, `actions`, `finished` and `right`.
        There is at least one answer, and of a figure that two metrics give the first one's is taken.
      judged_by: the figure that a run is judged by, of which more is better; `low` and `high` that
        its metric gives beside it are its interval.
      network: (number of ids that are no edits, number of edits, which are the last ids, nnx.Rngs) -> a
        `models.network.Network`; None for the transformer of the configuration.
      facts: what is told of the data, by name of `data.facts.SENTENCES`.
      is_open: whether texts may go on in any way, so that the perplexity of real ones is measured.
      is_windowed: whether texts are windows of longer ones, which go on where they end here.
    """

    name: str
    splits: Mapping[str, Sequence[Example]]
    tokenizer: Callable[[tuple[str, ...]], Tokenizer]
    confusable: Callable[[Tokenizer], Collection[int]] = ordinary_ids
    check: Callable[[Example, str], bool] = exact_match
    possible: Callable[[Example, str], bool] | None = None
    metrics: Sequence[str | Callable[[Sequence[Example], Sequence], Mapping[str, Any]]] = (
        "accuracy",
    )
    judged_by: str = "accuracy"
    network: Callable[[int, int, Any], Any] | None = None
    facts: Mapping[str, Any] = MappingProxyType({})
    is_open: bool = False
    is_windowed: bool = False


def character_task(
    name: str,
    alphabet: str,
    splits: Mapping[str, Sequence[Example]],
    confusable: str,
    **rest: Any,
) -> Task:
    """Returns a task over the characters of an alphabet.

    Args:
      name, splits: as of `Task`.
      alphabet: the characters of all prompts and completions.
      confusable: those that a right one could be mistaken for.
      rest: other attributes of `Task`.
    """
    return Task(name, splits, partial(CharTokenizer, alphabet), character_ids(confusable), **rest)
