"""Answers of the model to the examples of a task."""

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
      text: the surviving text, after all deletions.
      right: whether `<eos>` ended it and the task accepts the text.
      finished: whether `<eos>` ended it.
    """

    example: Example
    actions: list[int]
    text: str
    right: bool
    finished: bool


class Generator:
    """Answers the examples of a task, in batches of one shape.

    Args:
      graph, mdp: the policy; its parameters are given with each call.
      task, tokenizer: what checks answers and decodes them.
      prompt_slots: room for `<bos>` and a prompt.
      max_actions: decisions of an answer.
      rows: answers made at once.
      seed: of sampled answers.
      edit_bias: added to the logits of edits.
    """

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
        """Yields the answers to examples, in order.

        An answer depends on the seed and the example's number, not on how many are made at once.

        Args:
          params: the model's.
          examples: what to answer.
          choice: "greedy", or "sampled" at temperature 1.
        """
        prompts = [example.prompt for example in examples]
        for example, actions in zip(examples, self.actions(params, prompts, choice), strict=True):
            text = self.tokenizer.decode(surviving_text(self.mdp, actions))
            finished = actions[-1] == self.mdp.eos
            right = finished and self.task.check(example, text)
            yield Answer(example, actions, text, right, finished)

    def actions(self, params, prompts: Sequence[str], choice: str) -> Iterator[list[int]]:
        """Yields the ids of the actions that follow each prompt; otherwise as `answers`."""
        encode = partial(encode_prompt, self.tokenizer, prompt_slots=self._prompt_slots)
        for begin in range(0, len(prompts), self._rows):
            chunk = prompts[begin : begin + self._rows]
            # One shape, one compilation: the last chunk is filled up with copies, dropped below.
            filled = [*chunk, *[chunk[-1]] * (self._rows - len(chunk))]
            tokens, start = map(np.stack, zip(*map(encode, filled), strict=True))
            # A row draws with the number of its prompt, so batches of any size draw the same.
            sampled = self._sample[choice](params, tokens, start, self._key, np.int32(begin))
            episodes = jax.device_get(sampled)
            for row in range(len(chunk)):
                executed = slice(episodes.start[row] + 1, episodes.end[row] + 1)
                yield episodes.tokens[row, executed].tolist()


def deletion_flags(mdp: Mdp, actions: Sequence[int]) -> list[bool]:
    """Returns, for each action, whether it pushed a token that a later edit popped."""
    flags, stack = [False] * len(actions), []  # of times
    for time, action in enumerate(actions):
        pops = int(mdp.pops[action])
        if not pops:
            stack.append(time)
        for _ in range(min(pops, len(stack))):
            flags[stack.pop()] = True
    return flags


def surviving_text(mdp: Mdp, actions: Sequence[int]) -> list[int]:
    """Returns the tokens that a list of actions leaves."""
    pairs = zip(actions, deletion_flags(mdp, actions), strict=True)
    return [action for action, is_deleted in pairs if not (is_deleted or mdp.pops[action])]
