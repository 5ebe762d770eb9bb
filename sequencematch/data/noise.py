"""Noise on the expert's texts, so that it has something to take back (SequenceMatch).

Before each push of the clean text, with probability eta a wrong token z is pushed, with probability
`run` another after it and so on, then the expert mends; the retried push may go wrong again. z is the
environment's move, so what the step teaches is a choice of its own (`NOISE_STEPS`). Host side, and a
function of the generator alone.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sequencematch.core.mdp import EVERYTHING
from sequencematch.data.task import Task

# What a wrong token may be, as characters. The training step redraws those of `policy`, which are
# but placeholders here.
WRONG_TOKENS: dict[str, Callable[[Task], str]] = {
    "none": lambda task: "",
    "random": lambda task: task.alphabet,
    "policy": lambda task: task.alphabet,
    "ground_truth": lambda task: task.confusable,
}


class Noise(NamedTuple):
    """How the environment spoils the expert's texts.

    Attributes:
      kind: a key of `WRONG`.
      eta: probability in [0, 1) that a push goes wrong.
      run: probability in [0, 1) that another wrong token follows a wrong one.
      step: what a wrong token teaches, a key of `noise.NOISE_STEPS`.
    """

    kind: str = "none"
    eta: float = 0.0
    run: float = 0.0
    step: str = "clean"


class Fix(NamedTuple):
    """How the expert takes wrong tokens back.

    Attributes:
      edits: n -> the edit actions that remove n wrong tokens.
      restarts: whether they remove the right ones too, so that the text is written anew.
    """

    edits: Callable[[int], list[int]]
    restarts: bool


def fix_by_popping(pops: Mapping[int, int]) -> Fix:
    """Mends with as few edits as they allow: edit id -> tokens it pops, one of them popping 1."""
    largest_first = sorted(pops.items(), key=lambda edit: -edit[1])

    @functools.cache
    def edits(n: int) -> list[int]:
        fewest: list[list[int]] = [[]]
        for m in range(1, n + 1):
            ways = ([edit, *fewest[m - k]] for edit, k in largest_first if k <= m)
            fewest.append(min(ways, key=len))
        return fewest[n]

    return Fix(edits, restarts=False)


def fix_by_reset(reset: int) -> Fix:
    """Mends with one RESET, whatever the damage, and a restart (Zhang et al., arXiv 2409.14586)."""
    return Fix(lambda n: [reset], restarts=True)


def make_fix(pops: Mapping[int, int]) -> Fix:
    """How the expert takes wrong tokens back: with RESET if it has it, else with as few pops as do.

    Args:
      pops: edit id -> tokens it pops; RESET alone, or others of which one pops 1.
    """
    resets = [edit for edit, k in pops.items() if k == EVERYTHING]
    return fix_by_reset(resets[0]) if resets else fix_by_popping(pops)


# (what the expert would have done, what was executed) -> (label, whether it counts) at a noise step:
# "clean" teaches the expert's action, though another one decided the next state; "imitate" takes the
# wrong token for the expert's; "skip" leaves the step out of the expert's sums.
NOISE_STEPS: dict[str, Callable[[int, int], tuple[int, bool]]] = {
    "clean": lambda right, z: (right, True),
    "imitate": lambda right, z: (z, True),
    "skip": lambda right, z: (right, False),
}


class Decisions(NamedTuple):
    """What happened: actions, and at each what it teaches and whether it counts."""

    executed: list[int]
    labels: list[int]
    imitate: list[bool]


def add_noise(
    rng: np.random.Generator,
    clean: Sequence[int],
    *,
    eta: float,
    run: float,
    wrong: Sequence[int],
    mending: Fix,
    step: str,
    limit: int,
) -> Decisions:
    """Lets the environment push wrong tokens into a clean text, and the expert take them back.

    Args:
      rng: source of all chance.
      clean: the expert's text, `<eos>` last.
      eta: probability in [0, 1) that a push goes wrong, at each attempt.
      run: probability in [0, 1) that another wrong token follows a wrong one.
      wrong: ids that z is drawn from, uniformly, the right one excepted.
      mending: how they are taken back.
      step: what a noise step teaches, a key of `NOISE_STEPS`.
      limit: number of actions after which nothing more is needed.
    """
    steps, teach, i = [], NOISE_STEPS[step], 0
    while i < len(clean) and len(steps) < limit:
        if rng.random() >= eta:
            steps.append((clean[i], clean[i], True))
            i += 1
            continue
        tokens = _wrong_run(rng, clean[i], run, wrong, most=limit - len(steps))
        for n, z in enumerate(tokens):
            steps.append((z, *teach(mending.edits(n)[0] if n else clean[i], z)))
        steps += [(edit, edit, True) for edit in mending.edits(len(tokens))]
        i = 0 if mending.restarts else i
    return Decisions(*([each[field] for each in steps] for field in range(3)))


def _wrong_run(
    rng: np.random.Generator, right: int, run: float, wrong: Sequence[int], most: int
) -> list[int]:
    """One wrong token, and with probability `run` another, and so on, while they are needed."""
    # Only the first can be told right from wrong: after it, every token is.
    first = [z for z in wrong if z != right]
    tokens = [first[rng.integers(len(first))]]
    while len(tokens) < most and rng.random() < run:
        tokens.append(wrong[rng.integers(len(wrong))])
    return tokens
