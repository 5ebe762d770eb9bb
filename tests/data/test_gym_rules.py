import itertools

import pytest

from sequencematch.data import gym_rules
from sequencematch.data.task import Example

WORDS = ["CAT", "COT", "COG", "DOG", "DOT", "CAR", "ZOO"]
GRAPH = {
    word: {other for other in WORDS if sum(a != b for a, b in zip(word, other, strict=True)) == 1}
    for word in WORDS
}


def ladders(start, end, most):
    """Every ladder of at most so many words after the first, by trying all texts of words."""
    for length in range(1, most + 1):
        for words in itertools.product(WORDS, repeat=length):
            chain = [start, *words]
            if chain[-1] == end and all(b in GRAPH[a] for a, b in itertools.pairwise(chain)):
                yield ",".join(words)


def test_right_are_all_ladders_and_possible_all_their_beginnings():
    rules, example = gym_rules.ladders(GRAPH), Example("CAT DOG>", "")
    right = set(ladders("CAT", "DOG", 5))
    assert {"COT,DOT,DOG", "COT,COG,DOG", "CAR,CAT,COT,DOT,DOG"} <= right
    # Of those with at most two words all beginnings go on to an end within five.
    beginnings = {text[:n] for text in right for n in range(8)}
    for text in {begun + c for begun in beginnings for c in ["", *"ACDGORTZ,>x"]}:
        assert rules["check"](example, text) == (text in right), text
        if len(text) < 8:
            assert rules["possible"](example, text) == (text in beginnings), text
    assert not rules["check"](example, "") and not rules["check"](example, "DOG")
    assert not rules["possible"](example, "COT,,") and not rules["possible"](example, "ZOO")


def test_shortest_ladder_is_the_first_of_the_shortest():
    for start, end in itertools.permutations([word for word in WORDS if word != "ZOO"], 2):
        shortest = min(ladders(start, end, 4), key=lambda text: (len(text), text))
        assert ",".join(gym_rules.shortest_ladder(GRAPH, start, end)) == shortest


@pytest.mark.parametrize("completion", ["2*2*3*23", "7", "11*101"])
def test_right_are_the_factors_in_any_order(completion):
    example = Example("n>", completion)
    right = {"*".join(order) for order in itertools.permutations(completion.split("*"))}
    beginnings = {text[:n] for text in right for n in range(len(text) + 1)}
    for text in {begun + c for begun in beginnings for c in ["", *"01237*>"]}:
        assert gym_rules.has_factors(example, text) == (text in right), text
        assert gym_rules.has_factors_begun(example, text) == (text in beginnings), text


def test_an_expression_makes_the_target_of_the_prompt():
    example = Example("6 1 2 8=24>", "8*(6-1-2)")
    assert gym_rules.makes_target(example, "8*(6-1-2)") and gym_rules.makes_target(
        example, "(6-2-1)*8"
    )
    assert not gym_rules.makes_target(example, "6*8/2")  # 1 is left
    assert not gym_rules.makes_target(example, "24") and not gym_rules.makes_target(example, "")
