"""Answers of the model to the examples of a task."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Int

from sequencematch.core.keys import Purpose, random_key
from sequencematch.core.mdp import Mdp
from sequencematch.data.episodes import encode_prompt
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import Tokenizer
from sequencematch.models.transformer import with_whole_ends
from sequencematch.rollout import search
from sequencematch.rollout.decoding import Decoding
from sequencematch.rollout.decodings import NAMED, parse_decoding
from sequencematch.rollout.sampler import Sampling
from sequencematch.storage.processes import fetch

VALIDATED = ("greedy", "sampled")  # ways to answer that are followed while training


def make_decodings(
    mdp: Mdp,
    *,
    threshold: float,
    bias: float,
    temperature: float,
    memory: bool,
    names: Sequence[str] = NAMED,
) -> dict[str, Decoding]:
    """The ways to answer, by name; `unedited`, greedy with edits masked, only where there are edits.

    Args:
      mdp: says whether there are edits.
      threshold, bias, temperature, memory: as in `Decoding`, the threshold of greedy answers and the
        temperature of drawn ones.
      names: as of `parse_decoding`.

    Raises:
      ValueError: a name stands for nothing.
    """
    can_edit = bool(np.any(mdp.legal & (mdp.pops > 0)))
    # Without edits nothing is ever removed.
    usual = dict(
        threshold=threshold, bias=bias, temperature=temperature, memory=memory and can_edit
    )
    asked = [name for name in names if can_edit or name != "unedited"]
    return {name: parse_decoding(name, **usual) for name in asked}


class Answer(NamedTuple):
    """One generated answer.

    Attributes:
      example: the question and its right answers.
      actions: ids of the executed actions, edits included.
      text: the surviving text, after all deletions.
      right: whether it came to an end and the task accepts the text.
      finished: whether it came to an end: by `<eos>`, or at the length at which answers stop.
      taken: actions that it has cost: its own, or those of all draws of which it was chosen.
      edits: how many of its own actions are edits; None where that is not known, as of a bare text.
    """

    example: Example
    actions: list[int]
    text: str
    right: bool
    finished: bool
    taken: int
    edits: int | None = None


class Generator:
    """Answers the examples of a task, in batches of one shape.

    Args:
      graph, mdp: the policy; its parameters are given with each call.
      task, tokenizer: what checks answers and decodes them.
      prompt_slots: room for `<bos>` and a prompt.
      max_actions: decisions of an answer.
      rows: answers made at once.
      seed: of sampled answers.
      decodings: the ways to answer, by name; None is the policy itself.
      stop_at: number of surviving tokens at which an answer ends as well; 0 for none.
      sharding: how rows are divided among devices; None for one device.
    """

    def __init__(
        self,
        graph: nnx.GraphDef,
        mdp: Mdp,
        task: Task,
        tokenizer: Tokenizer,
        *,
        prompt_slots: int,
        max_actions: int,
        rows: int,
        seed: int,
        decodings: Mapping[str, Decoding | None],
        stop_at: int = 0,
        sharding: NamedSharding | None = None,
    ):
        self.mdp, self.task, self.tokenizer, self.decodings = mdp, task, tokenizer, decodings
        self._prompt_slots, self._rows, self.sharding = prompt_slots, rows, sharding
        self._stop_at = stop_at
        # By name: the draws of one way do not depend on which others there are.
        self._keys = {
            name: random_key(seed, Purpose.ANSWERS, zlib.crc32(name.encode())) for name in decodings
        }

        def sample(decoding: Decoding | None, params, prompts, start, key, first, begun):
            model = with_whole_ends(nnx.merge(graph, params))
            how = Sampling(max_actions, decoding, stop_at)
            found = search.answer(model, mdp, prompts, start, key, how, first=first, begun=begun)
            return found.episodes, found.taken

        self._sample = {
            name: jax.jit(partial(sample, decoding)) for name, decoding in decodings.items()
        }

    def answers(
        self,
        params,
        examples: Sequence[Example],
        choice: str,
        begun: Int[np.ndarray, "examples K"] | None = None,
    ) -> Iterator[Answer]:
        """Yields the answers to examples, in order.

        An answer depends on the seed, the way to answer and the example's number, and not on how many
        are made at once, but for rounding where that changes it.

        Args:
          params: the model's.
          examples: what to answer.
          choice: a name of `decodings`.
          begun: the first K actions of each answer, instead of the policy's; None for none.
        """
        prompts = [example.prompt for example in examples]
        found = self._draw(params, prompts, choice, begun=begun)
        for example, (actions, taken) in zip(examples, found, strict=True):
            text, finished = self.text(actions), self.is_finished(actions)
            right = finished and bool(self.task.check(example, text))
            edits = sum(bool(self.mdp.pops[action]) for action in actions)
            yield Answer(example, actions, text, right, finished, taken, edits)

    def text(self, actions: Sequence[int]) -> str:
        """What an answer leaves."""
        return self.tokenizer.decode(surviving_text(self.mdp, actions))

    def is_finished(self, actions: Sequence[int]) -> bool:
        """Whether an answer came to an end, and not to the limit on actions."""
        standing = len(surviving_text(self.mdp, actions))
        return actions[-1] == self.mdp.eos or 0 < self._stop_at <= standing

    def actions(
        self, params, prompts: Sequence[str], choice: str, first: int = 0
    ) -> Iterator[list[int]]:
        """Yields the ids of the actions that follow each prompt; otherwise as `answers`.

        Args:
          params, choice: as of `answers`.
          prompts: what to answer.
          first: number of the first of them; the draws of an answer depend on its number.
        """
        return (actions for actions, _ in self._draw(params, prompts, choice, first))

    def _draw(
        self,
        params,
        prompts: Sequence[str],
        choice: str,
        first: int = 0,
        begun: Int[np.ndarray, "prompts K"] | None = None,
    ) -> Iterator[tuple[list[int], int]]:
        """Yields (ids of an answer's actions, how many were taken for it)."""
        encode = partial(encode_prompt, self.tokenizer, prompt_slots=self._prompt_slots)
        for begin in range(0, len(prompts), self._rows):
            # One shape, one compilation: the last chunk is filled up with copies, dropped below.
            which = np.minimum(np.arange(begin, begin + self._rows), len(prompts) - 1)
            stacked = tuple(map(np.stack, zip(*(encode(prompts[i]) for i in which), strict=True)))
            own = None if begun is None else begun[which]
            tokens, start, own = jax.device_put((*stacked, own), self.sharding)
            # A row draws with the number of its prompt, so batches of any size draw the same.
            sampled = self._sample[choice](
                params, tokens, start, self._keys[choice], np.int32(first + begin), own
            )
            episodes, taken = fetch(sampled)
            for row in range(min(self._rows, len(prompts) - begin)):
                executed = slice(episodes.start[row] + 1, episodes.end[row] + 1)
                yield episodes.tokens[row, executed].tolist(), int(taken[row])


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
