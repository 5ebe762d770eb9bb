"""What is right in those data sets of `gym` that have several right answers to a question."""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from functools import partial

from sequencematch.data.expressions import makes
from sequencematch.data.task import Example

Graph = Mapping[str, Collection[str]]  # word -> the words that differ from it in one letter
Rules = Mapping[str, Callable[[Example, str], bool]]  # attributes of a `Task`


def makes_target(example: Example, text: str) -> bool:
    """Whether an expression makes the number after = in the prompt of all numbers before it."""
    numbers, target = example.prompt.removesuffix(">").split("=")
    return makes(text, map(int, numbers.split()), int(target))


def has_factors(example: Example, text: str) -> bool:
    """Whether the factors are those of the completion, in any order."""
    return Counter(text.split("*")) == Counter(example.completion.split("*"))


def has_factors_begun(example: Example, text: str) -> bool:
    """Whether some order of the factors begins with the text."""
    *written, begun = text.split("*")
    left, used = Counter(example.completion.split("*")), Counter(written)
    return used <= left and any(factor.startswith(begun) for factor in left - used)


def is_ladder(graph: Graph, example: Example, text: str) -> bool:
    """Whether each word differs in one letter from the one before, and the last is the right one."""
    start, end = example.prompt.removesuffix(">").split()
    words = [start, *text.split(",")]
    return words[-1] == end and _are_steps(graph, words)


def is_ladder_begun(graph: Graph, example: Example, text: str) -> bool:
    """Whether some ladder begins with the text: a step can be taken back, so any may be right."""
    start, _ = example.prompt.removesuffix(">").split()
    *words, begun = [start, *text.split(",")]
    return _are_steps(graph, words) and any(word.startswith(begun) for word in graph[words[-1]])


def shortest_ladder(graph: Graph, start: str, end: str) -> list[str]:
    """Returns the words after `start` in the shortest ladder, of several the first by alphabet.

    The package's own depends on the order of a set of texts, which differs from process to process.
    """
    steps, queue = {end: 0}, deque([end])
    while queue:
        word = queue.popleft()
        for neighbour in graph[word]:
            if neighbour not in steps:
                steps[neighbour] = steps[word] + 1
                queue.append(neighbour)
    ladder = [start]
    while ladder[-1] != end:
        left = steps[ladder[-1]] - 1
        ladder.append(min(word for word in graph[ladder[-1]] if steps[word] == left))
    return ladder[1:]


def ladders(graph: Graph) -> Rules:
    """The rules of ladders of words."""
    return {"check": partial(is_ladder, graph), "possible": partial(is_ladder_begun, graph)}


# They do not tell what some expression begins with: edits are compared with the completion alone.
EXPRESSIONS: Rules = {"check": makes_target}
FACTORS: Rules = {"check": has_factors, "possible": has_factors_begun}


def _are_steps(graph: Graph, words: list[str]) -> bool:
    return all(b in graph.get(a, ()) for a, b in itertools.pairwise(words))
