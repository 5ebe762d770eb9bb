"""Noise on the expert's texts, so that the expert has something to delete (SequenceMatch).

Before each push of the clean text a wrong token z is pushed with probability eta, a second one with
probability `run`, and so on. Then the expert removes them all. The retried push may go wrong again.
The environment chooses z, so what that step teaches is a choice of its own (`NOISE_STEPS`).

Everything here runs on the host and is a function of the generator alone. See docs/mathematics.md,
section 6.
"""

import bisect
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sequencematch.core.mdp import EVERYTHING
from sequencematch.data.task import Task
from sequencematch.data.tokenizer import Tokenizer

# Noise kind -> the ids that wrong tokens are drawn from. Those of `policy` are placeholders: the
# training step, which has the model, draws them again.
WRONG_TOKENS: dict[str, Callable[[Task, Tokenizer], Collection[int]]] = {
    "none": lambda task, tokenizer: (),
    "random": lambda task, tokenizer: tokenizer.ordinary,
    "policy": lambda task, tokenizer: tokenizer.ordinary,
    "ground_truth": lambda task, tokenizer: task.confusable(tokenizer),
}


class Noise(NamedTuple):
    """Which wrong tokens the environment pushes, how often, and what they teach.

    Attributes:
      kind: a key of `WRONG_TOKENS`.
      eta: probability in [0, 1) that a push goes wrong.
      run: probability in [0, 1) that another wrong token follows a wrong one.
      step: what a noise step teaches, a key of `NOISE_STEPS`.
    """

    kind: str = "none"
    eta: float = 0.0
    run: float = 0.0
    step: str = "clean"


class Fix(NamedTuple):
    """How the expert removes wrong tokens.

    Attributes:
      edits: n -> the edit actions that remove n wrong tokens.
      restarts: whether they remove the right ones too, so that the text is written again.
    """

    edits: Callable[[int], list[int]]
    restarts: bool


def fix_by_popping(pops: Mapping[int, int]) -> Fix:
    """Removes just the wrong tokens, with as few edits as possible.

    Args:
      pops: edit id -> tokens it pops; one of them pops 1.
    """
    largest_first = sorted(pops.items(), key=lambda edit: -edit[1])

    # Coin change by dynamic programming. `min` takes the first of equals, so a large edit comes
    # before a small one, and the rest of a fix is the fix of the rest.
    @functools.cache
    def edits(n: int) -> list[int]:
        fewest: list[list[int]] = [[]]
        for m in range(1, n + 1):
            ways = ([edit, *fewest[m - k]] for edit, k in largest_first if k <= m)
            fewest.append(min(ways, key=len))
        return fewest[n]

    return Fix(edits, restarts=False)


def fix_by_reset(reset: int) -> Fix:
    """Removes the whole text with one RESET, then restarts (Zhang et al., arXiv 2409.14586)."""
    return Fix(lambda n: [reset], restarts=True)


def make_fix(pops: Mapping[int, int]) -> Fix:
    """Returns the fix of an action set: RESET if it is there, else as few pops as possible.

    Args:
      pops: edit id -> tokens it pops; RESET alone, or others of which one pops 1.
    """
    resets = [edit for edit, k in pops.items() if k == EVERYTHING]
    return fix_by_reset(resets[0]) if resets else fix_by_popping(pops)


# (the expert's action, the executed one z) -> (label, whether it counts) at a noise step:
# "clean" teaches the expert's action, although z decides the next state; "imitate" teaches z; "skip"
# leaves the step out of the expert's sums.
NOISE_STEPS: dict[str, Callable[[int, int], tuple[int, bool]]] = {
    "clean": lambda right, z: (right, True),
    "imitate": lambda right, z: (z, True),
    "skip": lambda right, z: (right, False),
}


class Decisions(NamedTuple):
    """The decisions after a prompt.

    Attributes:
      executed: the actions.
      labels: the action that each decision teaches.
      imitate: whether it counts.
    """

    executed: list[int]
    labels: list[int]
    imitate: list[bool]


def make_noiser(
    task: Task, tokenizer: Tokenizer, noise: Noise, limit: int
) -> Callable[[np.random.Generator, Sequence[int]], Decisions]:
    """Returns (generator, clean text) -> its noised text, cut to `limit` decisions.

    Raises:
      ValueError: the noise has nothing to draw from.
    """
    # In order, so that draws are a function of the seed.
    wrong = sorted(set(WRONG_TOKENS[noise.kind](task, tokenizer)))
    eta = noise.eta if noise.kind != "none" else 0.0
    # Two, so that one is left when the right one is excepted.
    if eta and len(wrong) < 2:
        raise ValueError(
            f"noise.kind={noise.kind!r} needs two tokens or more to draw a wrong one from; "
            f"task {task.name!r} gives {tokenizer.symbols(wrong)}"
        )
    fix = make_fix(tokenizer.pops)

    def add(rng: np.random.Generator, clean: Sequence[int]) -> Decisions:
        fixed = dict(eta=eta, run=noise.run, wrong=wrong, fix=fix, step=noise.step, limit=limit)
        return Decisions(*(field[:limit] for field in add_noise(rng, clean, **fixed)))

    return add


def add_noise(
    rng: np.random.Generator,
    clean: Sequence[int],
    *,
    eta: float,
    run: float,
    wrong: Sequence[int],
    fix: Fix,
    step: str,
    limit: int,
) -> Decisions:
    """Adds wrong tokens to a clean text, and the edits that remove them.

    Args:
      rng: source of all chance.
      clean: the expert's text, `<eos>` last unless it is cut.
      eta: probability in [0, 1) that a push goes wrong, at each attempt.
      run: probability in [0, 1) that another wrong token follows a wrong one.
      wrong: ids that z is drawn from uniformly, the right one excepted; in ascending order.
      fix: how they are removed.
      step: what a noise step teaches, a key of `NOISE_STEPS`.
      limit: number of actions after which no new noise or push is begun. With restarts and a high
        eta a text may never end.
    """
    steps, teach, i = [], NOISE_STEPS[step], 0
    while i < len(clean) and len(steps) < limit:
        if rng.random() >= eta:
            steps.append((clean[i], clean[i], True))
            i += 1
            continue
        tokens = _draw_wrong_tokens(rng, clean[i], run, wrong, most=limit - len(steps))
        for n, z in enumerate(tokens):
            # After n > 0 wrong tokens the expert would start to remove them, not push clean[i].
            steps.append((z, *teach(fix.edits(n)[0] if n else clean[i], z)))
        steps += [(edit, edit, True) for edit in fix.edits(len(tokens))]
        i = 0 if fix.restarts else i
    return Decisions(*([each[field] for each in steps] for field in range(3)))


def _draw_wrong_tokens(
    rng: np.random.Generator, right: int, run: float, wrong: Sequence[int], most: int
) -> list[int]:
    """Draws one wrong token, with probability `run` another, and so on, up to `most`.

    Only the first may not be the right one: after a wrong token, every token is wrong.
    """
    # Without a copy of the others: there may be 100,000 of them, in ascending order.
    place = bisect.bisect_left(wrong, right)
    is_there = place < len(wrong) and wrong[place] == right
    drawn = int(rng.integers(len(wrong) - is_there))
    tokens = [wrong[drawn + (is_there and drawn >= place)]]
    while len(tokens) < most and rng.random() < run:
        tokens.append(wrong[rng.integers(len(wrong))])
    return tokens
