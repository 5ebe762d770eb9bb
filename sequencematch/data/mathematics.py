"""DeepMind's mathematics questions (Saxton et al., 2019): question i is a function of (seed, i).

The PyPI package `mathematics_dataset` (1.0.1) draws from the global `random` and `numpy.random`, gives
no choice of a question's base, and is older than today's sympy and numpy. This module works
around all three.
"""

import contextlib
import difflib
import importlib
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from sequencematch.data.splits import distinct
from sequencematch.data.task import Example

BASES = range(2, 17)  # those that the package draws from
_BASE = re.compile(r"In base (\d+), ")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NUMBER_IN_BASE = re.compile(r"\b[0-9a-f]+\b")
_PROBES = 100  # questions drawn to see whether a module works


class Questions(NamedTuple):
    """An endless stream of questions.

    Attributes:
      module: "<group>__<name>" as the package calls it, such as "arithmetic__add_or_sub_in_base".
      bases: the bases that may occur, for modules whose questions name one; () allows every one.
      entropy: (low, high) of a question's entropy, log10 of the number of values it could take.
      seed: in [0, 2**32).
    """

    module: str
    bases: tuple[int, ...]
    entropy: tuple[float, float]
    seed: int


@contextlib.contextmanager
def preserve_global_random() -> Iterator[None]:
    """Restores the states of `random` and `numpy.random` on exit."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def distinct_questions(questions: Questions) -> Iterator[Example]:
    """Returns distinct questions without end.

    Raises:
      ValueError: there are no more (1000 repetitions in a row), or the module fails.
    """
    sample = question_maker(questions)
    return distinct(
        (question(questions, sample, index) for index in itertools.count()),
        f"data.module={questions.module!r} with bases {questions.bases} and entropy "
        f"{questions.entropy}",
        "widen data.entropy, or lower data.train, data.validation, data.test",
    )


def question(questions: Questions, sample: Callable[[], Any], index: int) -> Example:
    """Returns question `index`, seeded by (seed, index); global random states are unchanged.

    Raises:
      ValueError: the module fails, or bases are asked for and its questions have none.
    """
    with preserve_global_random(), _restrict_bases(questions.bases):
        # Modules draw from either generator. `random` hashes a text with SHA-512, so that nearby
        # seeds give unrelated questions; numpy takes several integers below 2**32.
        random.seed(f"{questions.seed}/{index}")
        np.random.seed([questions.seed, index])
        example = _draw(questions.module, sample)
    if questions.bases and _base(questions.module, example) not in questions.bases:
        raise ValueError(f"{example.prompt!r} has none of data.bases={questions.bases}")
    return example


@contextlib.contextmanager
def _restrict_bases(bases: tuple[int, ...]) -> Iterator[None]:
    """Patches `random.randint` so that the package's base is one of `bases`.

    The package draws a base as `random.randint(2, 16)`, independently of the numbers. So repeating
    this draw alone gives the same distribution as rejecting whole questions, in a fifteenth of the
    time. The ranges of its numbers are symmetric around zero: no other draw looks like this one.
    """
    draw = random.randint

    def randint(low: int, high: int) -> int:
        value = draw(low, high)
        while bases and (low, high) == (BASES[0], BASES[-1]) and value not in bases:
            value = draw(low, high)
        return value

    random.randint = randint
    try:
        yield
    finally:
        random.randint = draw


def twin_key(example: Example) -> tuple[str, ...]:
    """What twins, questions of one module about the same numbers, have in common.

    Their base, if they name one, and then `numbers_of` them.
    """
    match = _BASE.match(example.prompt)
    return (match[1], *numbers_of(example)) if match else numbers_of(example)


def numbers_of(example: Example) -> tuple[str, ...]:
    """The numbers of a question without signs, sorted: whatever the base, the order, the operation.

    A question without numbers is its own and only twin.
    """
    if match := _BASE.match(example.prompt):
        return tuple(sorted(_NUMBER_IN_BASE.findall(example.prompt[match.end() :])))
    return tuple(sorted(_NUMBER.findall(example.prompt))) or (example.prompt,)


def are_in_other_bases(questions: Iterable[Example], train: Iterable[Example]) -> list[bool]:
    """Of each question, whether train has it in another base, and with the same answer.

    Splits that have no twins in common may have these.

    Args:
      questions: none of them is in train itself.
      train: the questions to learn from.
    """

    def plain(example: Example) -> tuple[str, str]:
        return _BASE.sub("", example.prompt, count=1), example.completion

    learnt = {*map(plain, train)}
    return [plain(question) in learnt for question in questions]


def check(questions: Questions) -> None:
    """Checks the parameters before any work, and draws a few questions to test the module.

    Raises:
      ValueError: no such module, impossible bases, entropy or seed, a module without bases where
        some are asked for, or one that fails under today's numpy.
    """
    if not set(questions.bases) <= set(BASES):
        raise ValueError(f"data.bases={questions.bases}: allowed are 2 to 16, or () for all")
    if len(questions.entropy) != 2 or not 0 <= questions.entropy[0] <= questions.entropy[1]:
        raise ValueError(
            f"data.entropy={questions.entropy}: expected (low, high), 0 <= low <= high"
        )
    if not 0 <= questions.seed < 2**32:
        raise ValueError(f"data.seed={questions.seed}: allowed are 0 to 2**32 - 1")
    sample = question_maker(questions)
    for probe in range(_PROBES):
        question(questions._replace(bases=()), sample, probe)
    question(questions, sample, 0)


def question_maker(questions: Questions) -> Callable[[], Any]:
    """Returns the package's function that draws one question from the global random states.

    Raises:
      ValueError: no such module.
    """
    modules = _modules(questions.entropy)
    if questions.module not in modules:
        # cutoff=0: the nearest name, however far.
        near = difflib.get_close_matches(questions.module, modules, n=1, cutoff=0)[0]
        raise ValueError(f"data.module={questions.module!r} does not exist: did you mean {near!r}?")
    return modules[questions.module]


def _modules(entropy: tuple[float, float]) -> dict[str, Callable[[], Any]]:
    """Returns every module by name, after putting a function back where sympy used to have it.

    The package imports `base_solution_linear` from `sympy.solvers.diophantine`; today it is in the
    submodule of the same name. Both need import_module: as an attribute, the name is a function.
    """
    moved = importlib.import_module("sympy.solvers.diophantine.diophantine")
    old_home = importlib.import_module("sympy.solvers.diophantine")
    old_home.base_solution_linear = moved.base_solution_linear
    groups = importlib.import_module("mathematics_dataset.modules.modules").train(lambda _: entropy)
    return {f"{group}__{name}": f for group, named in groups.items() for name, f in named.items()}


def _draw(module: str, sample: Callable[[], Any]) -> Example:
    try:
        problem = sample()
        return Example(str(problem.question), str(problem.answer))
    except Exception as cause:
        # One short line, whatever the package says.
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:80]
        raise ValueError(
            f"data.module={module!r} fails with numpy {np.__version__} ({reason}): use one without "
            "polynomials or composition, such as 'arithmetic__add_or_sub_in_base'"
        ) from cause


def _base(module: str, example: Example) -> int:
    match = _BASE.match(example.prompt)
    if not match:
        raise ValueError(
            f"data.bases: questions of {module!r} have no base ({example.prompt!r}): set it to ()"
        )
    return int(match[1])
