"""Answers that are begun with wrong tokens: does the model take them back?

Such a start lies off the data for certain, which an error of the model's own does not. A model without
edits can only go on from it, so all its answers are wrong.
"""

from collections.abc import Sequence

import numpy as np
from flax import nnx
from jaxtyping import Int

from sequencematch.core.keys import Purpose, host_seed
from sequencematch.data.task import Example
from sequencematch.evaluate.edits import possible_texts
from sequencematch.evaluate.generate import Answer, Generator

LENGTHS = (1, 2, 3, 4)  # wrong tokens at the start


def draw_wrong_starts(
    generator: Generator, examples: Sequence[Example], length: int, seed: int
) -> Int[np.ndarray, "examples length"]:
    """Draws a wrong start for each example.

    All tokens are uniform among the task's confusable ones; the first is one that no right answer
    begins with.

    Args:
      generator: has the task, its tokenizer and the actions.
      examples: what is asked.
      length: number of tokens.
      seed: of the run.

    Raises:
      ValueError: some right answer begins with each of the tokens.
    """
    task, tokenizer, mdp = generator.task, generator.tokenizer, generator.mdp
    rng = np.random.default_rng(host_seed(seed, Purpose.WRONG_STARTS, length))
    tokens = sorted(set(task.confusable(tokenizer)))
    starts = rng.choice(tokens, (len(examples), length)).astype(np.int32)
    for start, example in zip(starts, examples, strict=True):
        is_possible = possible_texts(task, tokenizer, mdp, example)
        wrong = [token for token in tokens if not is_possible([token])]
        if not wrong:
            raise ValueError(f"a right answer to {example.prompt!r} may begin with any token")
        start[0] = rng.choice(wrong)
    return starts


def answer_wrong_starts(
    generator: Generator,
    params: nnx.State,
    examples: Sequence[Example],
    choice: str,
    length: int,
    seed: int,
) -> list[Answer]:
    """The answers to examples that go on from wrong starts of some tokens.

    Args:
      generator: answers them; its limit on actions counts the start, too.
      params: of the network.
      examples: what is asked.
      choice: the way to answer, a name of the generator's.
      length, seed: as of `draw_wrong_starts`.
    """
    starts = draw_wrong_starts(generator, examples, length, seed)
    return [*generator.answers(params, examples, choice, starts)]
