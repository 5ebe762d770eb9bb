"""Exact match of generated answers, and how often edits are used and mend an error."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import sqrt
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from sequencematch.core.mdp import Mdp
from sequencematch.data import pipeline
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import CharTokenizer
from sequencematch.rollout import sampler

CHOICES = {"greedy": sampler.greedy, "sampled": sampler.tempered(1.0)}


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

        def sample(choose: sampler.Choice, params, prompts, start, key, first):
            model = nnx.merge(graph, params)
            answer = partial(sampler.sample, max_actions=max_actions, choose=choose)
            return answer(model, mdp, prompts, start, key, first=first)[0]

        self._sample = {
            name: jax.jit(partial(sample, sampler.biased(choose, mdp, edit_bias)))
            for name, choose in CHOICES.items()
        }

    def answers(self, params, examples: Sequence[Example], choice: str) -> Iterator[Answer]:
        """Answers examples, "greedy" or "sampled" at temperature 1.

        The draws depend on the seed and an example's number: not on how many are answered at once.
        """
        for begin in range(0, len(examples), self._rows):
            chunk = [examples[i] for i in range(begin, min(begin + self._rows, len(examples)))]
            filled = chunk + [chunk[-1]] * (self._rows - len(chunk))
            encode = partial(
                pipeline.encode_prompt, self.tokenizer, prompt_slots=self._prompt_slots
            )
            prompts, start = map(np.stack, zip(*(encode(e.prompt) for e in filled), strict=True))
            sampled = self._sample[choice](params, prompts, start, self._key, np.int32(begin))
            episodes = jax.device_get(sampled)
            for row, example in enumerate(chunk):
                taken = slice(episodes.start[row] + 1, episodes.end[row] + 1)
                yield self._answer(example, episodes.tokens[row, taken].tolist())

    def _answer(self, example: Example, actions: list[int]) -> Answer:
        text = self.tokenizer.decode(replay(self.mdp, actions))
        finished = actions[-1] == self.mdp.eos
        right = finished and self.task.check(example, text)
        return Answer(example, actions, text, right, finished)


def deleted(mdp: Mdp, actions: Sequence[int]) -> list[bool]:
    """Which actions pushed a token that a later edit popped, by a plain stack."""
    flags, alive = [False] * len(actions), []
    for time, action in enumerate(actions):
        pops = int(mdp.pops[action])
        if not pops:
            alive.append(time)
        for _ in range(min(pops, len(alive))):
            flags[alive.pop()] = True
    return flags


def replay(mdp: Mdp, actions: Sequence[int]) -> list[int]:
    """The text that a string of actions leaves."""
    taken = zip(actions, deleted(mdp, actions), strict=True)
    return [action for action, is_deleted in taken if not (is_deleted or mdp.pops[action])]


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def accuracy(answers: Sequence[Answer]) -> dict:
    """Share of right answers with its 95 % interval, and how the answers ended."""
    n, right = len(answers), sum(a.right for a in answers)
    low, high = wilson(right, n)
    return {
        "accuracy": right / n,
        "low": low,
        "high": high,
        "n": n,
        "right": right,
        "finished": sum(a.finished for a in answers) / n,
        "length": sum(len(a.actions) for a in answers) / n,
    }


class Edits(NamedTuple):
    """What one answer's edits did, counted against the reference.

    Attributes:
      deletions: edits that removed something.
      deleted_wrong: those made while the text was no beginning of the reference.
      errors: first wrong tokens after a right beginning, a premature or late `<eos>` included.
      errors_deleted: those later removed.
      errors_mended: those removed, and the right token put in their place.
    """

    deletions: int = 0
    deleted_wrong: int = 0
    errors: int = 0
    errors_deleted: int = 0
    errors_mended: int = 0


def edits(mdp: Mdp, actions: Sequence[int], reference: Sequence[int]) -> Edits:
    """Counts errors and mends of one answer; `reference` ends in `<eos>`."""
    text: list[int] = []
    # Where the text went wrong, and where that was taken back but not yet put right.
    count, astray, removed = Edits(), 0, None
    for action in actions:
        right = text == list(reference[: len(text)])
        if not mdp.pops[action]:
            wrong = right and action != reference[len(text)]
            mended = right and not wrong and removed == len(text)
            count = count._replace(
                errors=count.errors + wrong, errors_mended=count.errors_mended + mended
            )
            astray = len(text) if wrong else astray
            removed = None if wrong or mended else removed
            text = [*text, action]
        elif text:
            text = text[: max(len(text) - int(mdp.pops[action]), 0)]
            now_right = text == list(reference[: len(text)])
            removed = astray if now_right and not right else None
            count = count._replace(
                deletions=count.deletions + 1,
                deleted_wrong=count.deleted_wrong + (not right),
                errors_deleted=count.errors_deleted + (now_right and not right),
            )
    return count


def edit_statistics(
    mdp: Mdp, answers: Sequence[Answer], encode: Callable[[str], Sequence[int]]
) -> dict:
    """How often edits are used, how often they remove what is wrong, how often that mends it."""
    references = ([*encode(a.example.completion), mdp.eos] for a in answers)
    pairs = zip(answers, references, strict=True)
    counts = [edits(mdp, a.actions, reference) for a, reference in pairs]
    total = Edits(*map(sum, zip(*counts, strict=True)))
    used = [sum(bool(mdp.pops[action]) for action in a.actions) for a in answers]
    return {
        "answers": sum(n > 0 for n in used) / len(answers),
        "per_action": sum(used) / max(sum(len(a.actions) for a in answers), 1),
        "deleted_wrong": _share(total.deleted_wrong, total.deletions),
        "errors": total.errors,
        "errors_deleted": _share(total.errors_deleted, total.errors),
        "errors_mended": _share(total.errors_mended, total.errors),
    }


def _share(part: int, whole: int) -> float | None:
    """part/whole, or None where there is nothing to take a share of."""
    return part / whole if whole else None
