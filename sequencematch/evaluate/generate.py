"""Answers to the examples of a task, in batches of one shape."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from sequencematch.core.mdp import Mdp
from sequencematch.data.episodes import encode_prompt
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import CharTokenizer
from sequencematch.rollout import decoding, sampler

CHOICES = {"greedy": decoding.greedy, "sampled": decoding.with_temperature(1.0)}


class Answer(NamedTuple):
    """One generated answer.

    Attributes:
      example: the question and its reference answer.
      actions: ids of the executed actions, edits included.
      text: what is left after deletions.
      right: whether the task accepts the text, and `<eos>` ended it.
      finished: whether `<eos>` ended it.
    """

    example: Example
    actions: list[int]
    text: str
    right: bool
    finished: bool


class Generator:
    """Answers the examples of a task, in batches of one shape."""

    def __init__(
        self,
        graph: nnx.GraphDef,
        mdp: Mdp,
        task: Task,
        tokenizer: CharTokenizer,
        *,
        prompt_slots: int,
        max_actions: int,
        rows: int,
        seed: int,
        edit_bias: float = 0.0,
    ):
        self.mdp, self.task, self.tokenizer = mdp, task, tokenizer
        self._prompt_slots, self._rows, self._key = prompt_slots, rows, jax.random.key(seed)

        def sample(choose: decoding.Choice, params, prompts, start, key, first):
            model = nnx.merge(graph, params)
            answer = partial(sampler.sample, max_actions=max_actions, choose=choose)
            return answer(model, mdp, prompts, start, key, first=first)[0]

        self._sample = {
            name: jax.jit(partial(sample, decoding.with_edit_bias(choose, mdp, edit_bias)))
            for name, choose in CHOICES.items()
        }

    def answers(self, params, examples: Sequence[Example], choice: str) -> Iterator[Answer]:
        """Answers examples, "greedy" or "sampled" at temperature 1.

        The draws depend on the seed and an example's number: not on how many are answered at once.
        """
        for begin in range(0, len(examples), self._rows):
            chunk = [examples[i] for i in range(begin, min(begin + self._rows, len(examples)))]
            filled = chunk + [chunk[-1]] * (self._rows - len(chunk))
            encode = partial(encode_prompt, self.tokenizer, prompt_slots=self._prompt_slots)
            prompts, start = map(np.stack, zip(*(encode(e.prompt) for e in filled), strict=True))
            sampled = self._sample[choice](params, prompts, start, self._key, np.int32(begin))
            episodes = jax.device_get(sampled)
            for row, example in enumerate(chunk):
                taken = slice(episodes.start[row] + 1, episodes.end[row] + 1)
                yield self._answer(example, episodes.tokens[row, taken].tolist())

    def _answer(self, example: Example, actions: list[int]) -> Answer:
        text = self.tokenizer.decode(surviving_text(self.mdp, actions))
        finished = actions[-1] == self.mdp.eos
        right = finished and self.task.check(example, text)
        return Answer(example, actions, text, right, finished)


def deletion_flags(mdp: Mdp, actions: Sequence[int]) -> list[bool]:
    """Which actions pushed a token that a later edit popped, by a plain stack."""
    flags, alive = [False] * len(actions), []
    for time, action in enumerate(actions):
        pops = int(mdp.pops[action])
        if not pops:
            alive.append(time)
        for _ in range(min(pops, len(alive))):
            flags[alive.pop()] = True
    return flags


def surviving_text(mdp: Mdp, actions: Sequence[int]) -> list[int]:
    """The text that a string of actions leaves."""
    taken = zip(actions, deletion_flags(mdp, actions), strict=True)
    return [action for action, is_deleted in taken if not (is_deleted or mdp.pops[action])]
