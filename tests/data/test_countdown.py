"""Countdown: what is right and what can become right, against all right answers of small problems."""

import itertools
import re
from types import SimpleNamespace

import pytest

from configs import countdown as configuration
from sequencematch.data import countdown
from sequencematch.data.task import Example
from sequencematch.data.tasks import load_task
from sequencematch.setup.examples import load_data
from tests.marks import stress

SIZES = {"train": 60, "validation": 10, "test": 20}


def data_config(**changes):
    return SimpleNamespace(**{"numbers": 3, "seed": 0, "split": "twins", **SIZES, **changes})


def right_answers(prompt):
    """Every right answer, by trying all steps and looking at the end whether it was right."""
    numbers, target = prompt.removesuffix(">").split("=")
    found, unfinished = set(), [([], [int(n) for n in numbers.split()])]
    while unfinished:
        written, there = unfinished.pop()
        if there == [int(target)]:
            found.add(",".join(written))
        for a, b in itertools.permutations(there, 2):
            others = [*there]
            others.remove(a)
            others.remove(b)
            for text, result in ((f"{a}+{b}", a + b), (f"{a}-{b}", a - b), (f"{a}*{b}", a * b)):
                if result in range(1, 200):
                    unfinished.append(([*written, f"{text}={result}"], [*others, result]))
    return found


def texts_one_character_on(answers):
    """The beginnings of answers with any one character after them.

    A text that no answer begins with has one of these as its beginning, or is one.
    """
    beginnings = {answer[:n] for answer in answers for n in range(len(answer) + 1)}
    return {"", *(text + character for text in beginnings for character in "0123456789+-*=, >x")}


SMALL = ["4 10 18=62>", "2 2=4>", "2 2 4=8>", "1 1 1=1>", "7 7 7=7>", "25 8 1=192>", "3 3 3 1=6>"]


@pytest.mark.parametrize("prompt", SMALL)
def test_right_are_all_right_answers_and_possible_all_their_beginnings(prompt):
    answers, example = right_answers(prompt), Example(prompt, "")
    assert answers
    for text in texts_one_character_on(answers):
        begins = any(answer.startswith(text) for answer in answers)
        assert countdown.is_right(example, text) == (text in answers), text
        assert countdown.is_beginning(example, text) == begins, text
        if not begins:
            assert not countdown.is_beginning(example, text + ",1+1=2")


def test_problem_of_the_docstring():
    example = Example("4 10 18=62>", "18*4=72,72-10=62")
    assert example.prompt + example.completion in countdown.__doc__
    assert right_answers(example.prompt) == {example.completion, "4*18=72,72-10=62"}


@pytest.mark.parametrize(
    "text",
    [
        "18*4-10=62",  # two signs in a step
        "18*4=72",  # a number is left
        "18*4=72,72-10=62,",
        "18*4=73,73-10=63",
        "18*4=72,72-10=62,62+0=62",
        "10-4=6,18+44=62",  # 44 is not there
        "18*4=72,18*4=72,72-10=62",  # 18 is there once
        "018*4=72,72-10=62",
        "18 * 4=72,72-10=62",
        "１８*4=72,72-10=62",  # a digit to Python, and to nobody else
        "18*4=7_2,7_2-10=62",
        "9**9**9**9**9",
        "__import__('os')",
        "9" * 100_000,
        "," * 100_000,
        "",
    ],
)
def test_what_breaks_a_rule_is_wrong(text):
    assert not countdown.is_right(Example("4 10 18=62>", ""), text)


def test_a_result_is_above_zero_and_below_two_hundred():
    assert right_answers("20 10 1=199>") == set()
    assert not countdown.is_right(Example("20 10 1=199>", ""), "20*10=200,200-1=199")
    assert not countdown.is_right(Example("4 10 18=12>", ""), "4-10=-6,-6+18=12")
    assert not countdown.is_right(Example("9 9 5=5>", ""), "9-9=0,0+5=5")


def examples(task):
    return [example for split in task.splits.values() for example in split]


def given_numbers(example):
    return tuple(sorted(re.findall(r"\d+", example.prompt.split("=")[0])))


@pytest.mark.parametrize("numbers", [2, 3, 4])
def test_problems_are_solved_and_within_their_ranges(numbers):
    task = load_task("countdown", data_config(numbers=numbers))
    assert {name: len(split) for name, split in task.splits.items()} == SIZES
    assert len({example.prompt for example in examples(task)}) == sum(SIZES.values())
    for example in examples(task):
        *there, target = map(int, re.findall(r"\d+", example.prompt))
        assert len(there) == numbers and {*there} <= {*range(1, 26)} and target in range(1, 200)
        answers = right_answers(example.prompt)
        assert example.completion in answers and task.check(example, example.completion)
        assert {*countdown.answers(countdown.twin_key(example), target)} == answers


def test_the_answer_to_learn_does_not_depend_on_the_order_of_the_numbers():
    for example in examples(countdown.task(data_config())):
        numbers, target = example.prompt.removesuffix(">").split("=")
        for order in itertools.permutations(map(int, numbers.split())):
            other = Example(f"{' '.join(map(str, order))}={target}>", "")
            first = next(countdown.answers(countdown.twin_key(other), int(target)))
            assert first == example.completion
        operands = re.findall(r"(\d+)[*+-](\d+)=", example.completion)
        assert all(int(a) >= int(b) for a, b in operands)


def test_problems_with_the_same_numbers_are_in_one_split():
    task = countdown.task(data_config(train=1000, validation=150, test=300))
    keys = {name: {*map(given_numbers, split)} for name, split in task.splits.items()}
    assert not any(one & other for one, other in itertools.combinations(keys.values(), 2))
    # Most sets of numbers come back; split by prompt, they would fall anywhere.
    task = countdown.task(data_config(train=1000, validation=150, test=300, split="prompt"))
    keys = {name: {*map(given_numbers, split)} for name, split in task.splits.items()}
    assert len(keys["test"] & keys["train"]) > 30
    assert len({example.prompt for example in examples(task)}) == 1450


def test_problems_are_a_function_of_the_seed_and_test_problems_of_no_other_size():
    one, same, other = (countdown.task(data_config(seed=seed)).splits for seed in (0, 0, 1))
    assert one == same
    assert not {e.prompt for e in one["test"]} & {e.prompt for e in other["test"]}
    larger = countdown.task(data_config(train=100, validation=15)).splits
    assert larger["test"] == one["test"] and larger["train"][:60] == one["train"]


def test_targets_are_any_that_can_be_made():
    made = {countdown.problem(0, i, 2).prompt for i in range(20_000)}
    targets = {prompt.split("=")[1] for prompt in made if prompt.startswith("7 3=")}
    assert targets == {"10>", "4>", "21>"}


def test_too_few_problems_are_said_in_one_line():
    with pytest.raises(ValueError, match=r"^data.numbers=2 has only about \d+ .*: lower"):
        countdown.task(data_config(numbers=2, train=20_000))


def test_noise_mistakes_digits_and_signs():
    task = countdown.task(data_config())
    tokenizer = task.tokenizer(("<reset>",))
    assert "".join(tokenizer.symbols(task.confusable(tokenizer))) == "*+-0123456789"
    assert tokenizer.decode(tokenizer.encode("4 10 18=62>18*4=72,72-10=62"))


@pytest.mark.parametrize("variant", ["bc", stress("four,mle")])
def test_configuration_has_room_for_the_noise_and_for_a_second_try(variant):
    config = configuration.get_config(variant)
    config.data.update(train=1500, validation=50, test=50)
    _, _, data = load_data(config)  # all examples fit
    assert data.found["ends_lost"] < config.noise.max_cut
    longest = 10 * config.data.numbers - 9  # 25*7=175,175+24=199 and <eos> for three numbers
    assert 2 * longest < config.evaluate.max_actions
