"""Countdown in worked steps: make a target from a few numbers, and use each of them once.

    4 10 18=62>18*4=72,72-10=62

The numbers are 1 to 25, the signs + - *. A step takes two of the numbers that are there and puts its
result, 1 to 199, in their place; the result of the last step is the target. A right answer is such a
chain of steps, whatever their order and that of their operands.

`steps` is the whole game: the texts that may be written next. An answer is checked against these
texts, so nothing that a model writes is evaluated, nor even read as a number.
"""

import functools
import itertools
import operator
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sequencematch.data.splits import SPLITS, distinct
from sequencematch.data.task import Example, Task, character_task

LARGEST_NUMBER, LARGEST_RESULT = 25, 199
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_DIGITS = "0123456789"

Numbers = tuple[int, ...]  # the largest first


def task(data: Any) -> Task:
    """Returns problems that are a function of `data.seed`; a step by noise is a wrong digit or sign.

    Args:
      data: has `numbers` (how many are given), `seed`, the sizes `train`, `validation`, `test`, and
        `split`: "twins" (problems with the same numbers, in any order and whatever the target, are in
        one split), or "prompt".

    Raises:
      ValueError: there are too few problems.
    """
    problems = (problem(data.seed, index, data.numbers) for index in itertools.count())
    stream = distinct(problems, f"data.numbers={data.numbers}")
    streams = SPLITS[data.split](stream, data.seed, twin_key)
    # The test problems are taken first, so they depend on no other size.
    splits = {
        name: list(itertools.islice(streams[name], getattr(data, name)))
        for name in ("test", "validation", "train")
    }
    signs = "".join(SIGNS)
    rules = {"check": is_right, "possible": is_beginning}
    return character_task("countdown", f"{_DIGITS}{signs} =,>", splits, _DIGITS + signs, **rules)


def problem(seed: int, index: int, count: int) -> Example:
    """Returns problem `index`: random numbers, and a random one of the targets that they can make.

    Its completion is the first right answer in the order of `steps`, which starts with the largest
    numbers; of two orders of the operands it is the one with the larger before the smaller.
    """
    rng = random.Random(f"{seed}/{index}")  # hashed: nearby seeds give unrelated problems
    numbers = [rng.randint(1, LARGEST_NUMBER) for _ in range(count)]
    given = _largest_first(numbers)
    target = rng.choice(sorted(results(given)))
    return Example(f"{' '.join(map(str, numbers))}={target}>", next(answers(given, target)))


@functools.lru_cache(maxsize=2**13)  # some 30 MB
def steps(numbers: Numbers) -> Mapping[str, Numbers]:
    """Returns the text of every step that may be taken -> the numbers that are there after it."""
    found = {}
    for i, j in itertools.permutations(range(len(numbers)), 2):
        others = [number for k, number in enumerate(numbers) if k not in (i, j)]
        for sign, apply in SIGNS.items():
            result = apply(numbers[i], numbers[j])
            if 1 <= result <= LARGEST_RESULT:
                text = f"{numbers[i]}{sign}{numbers[j]}={result}"
                found[text] = _largest_first([*others, result])
    return found


@functools.lru_cache(maxsize=2**14)  # some 30 MB
def results(numbers: Numbers) -> frozenset[int]:
    """Returns every number that can be made of these, each used once."""
    if len(numbers) == 1:
        return frozenset(numbers)
    return frozenset().union(*map(results, {*steps(numbers).values()}))


def answers(numbers: Numbers, target: int) -> Iterator[str]:
    """Yields every right answer."""
    for step, left in steps(numbers).items():
        if left == (target,):
            yield step
        elif target in results(left):
            yield from (f"{step},{rest}" for rest in answers(left, target))


def is_right(example: Example, text: str) -> bool:
    """Whether the text makes the target of all the numbers."""
    numbers, target = _read(example)
    return _numbers_after(text.split(","), numbers) == (target,)


def is_beginning(example: Example, text: str) -> bool:
    """Whether some right answer begins with the text."""
    numbers, target = _read(example)
    *written, begun = text.split(",")
    possible = steps(_numbers_after(written, numbers))
    return any(step.startswith(begun) and target in results(possible[step]) for step in possible)


def twin_key(example: Example) -> Numbers:
    """The given numbers, in order of size."""
    return _read(example)[0]


def _read(example: Example) -> tuple[Numbers, int]:
    numbers, target = example.prompt.removesuffix(">").split("=")
    return _largest_first(map(int, numbers.split())), int(target)


def _numbers_after(written: Iterable[str], numbers: Numbers) -> Numbers:
    """Returns what these steps leave; nothing if one of them may not be taken."""
    for step in written:
        numbers = steps(numbers).get(step, ())
    return numbers


def _largest_first(numbers: Iterable[int]) -> Numbers:
    return tuple(sorted(numbers, reverse=True))
