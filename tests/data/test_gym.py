"""Data sets of reasoning-gym; what needs the package is skipped where it is not installed."""

import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from configs import gym as configuration
from sequencematch.data import gym, gym_sets
from sequencematch.data.task import Example
from sequencematch.data.tasks import TASKS, check_harmless, load_task
from tests.data.preparation import contents

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)
SIZES = {"train": 40, "validation": 8, "test": 12}
FAST = [
    name for name in gym_sets.DATA_SETS if name != "puzzle24"
]  # which takes .1 s for a question


def data_config(folder, **changes):
    return SimpleNamespace(**{"dir": str(folder), "seed": 0, "split": "twins", **SIZES, **changes})


def first(name, count=40, seed=0):
    return list(itertools.islice(gym.examples(name, seed), count if name in FAST else 3))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("boxnet", "has no demonstrations"),
        ("rush_hour", "has no demonstrations"),
        ("game_of_life_halting", "takes any text for right"),
        ("time_intervals", "no function of the seed"),
        ("zebra_puzzles", "in prose"),
        ("sudoku", "a drawing"),
    ],
)
def test_others_are_refused_by_name_with_the_reason(name, reason, tmp_path):
    with pytest.raises(ValueError, match=f"^task='gym/{name}' .*{reason}.*countdown") as raised:
        load_task(f"gym/{name}", data_config(tmp_path))
    assert len(str(raised.value).splitlines()) == 1


def test_unknown_name_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="^task='gym/countdwn': did you mean 'gym/countdown'"):
        load_task("gym/countdwn", data_config(tmp_path))


def test_missing_package_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"^task='gym/gcd' needs reasoning-gym: pip install 'sequencematch\[gym\]'$"
    for call in (
        TASKS["gym/gcd"],
        lambda data: check_harmless("gym/gcd", data, SimpleNamespace(dir="")),
    ):
        with pytest.raises(ValueError, match=message):
            call(data_config(tmp_path))
    assert not list(tmp_path.iterdir())


@needs_package
def test_every_data_set_is_offered_or_refused():
    package = importlib.import_module("reasoning_gym.factory")
    assert {*gym_sets.DATA_SETS, *gym_sets.REFUSED} == set(package.DATASETS)
    assert not {*gym_sets.DATA_SETS} & {*gym_sets.REFUSED}


def is_prime(number):
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))


def is_factorization(prompt, answer):
    factors = list(map(int, answer.split("*")))
    return math.prod(factors) == int(prompt[:-1]) and all(map(is_prime, factors))


def is_sorted(prompt, answer):
    numbers = list(map(int, prompt[:-1].split()))
    return list(map(int, answer.split())) == sorted(numbers, reverse=prompt[-1] == ">")


def sudoku_solutions(prompt):
    """Every filling of the empty cells without a number twice in a row, column or square."""
    cells = [int(c) for c in prompt if c.isdecimal()]
    places = range(16)
    groups = [(i // 4, 4 + i % 4, 8 + i // 8 * 2 + i % 4 // 2) for i in places]
    boards = [cells]
    for i in places:
        fits = []
        for board in boards:
            for number in [board[i]] if board[i] else range(1, 5):
                others = [board[j] for j in places if j != i and {*groups[i]} & {*groups[j]}]
                if number not in others:
                    fits.append([*board[:i], number, *board[i + 1 :]])
        boards = fits
    return ["/".join("".join(map(str, b[r : r + 4])) for r in (0, 4, 8, 12)) for b in boards]


def rotate(prompt, answer):
    rows, turns = prompt[:-1].split(" ")
    matrix = rows.split("/")
    for _ in range(int(turns)):
        matrix = ["".join(column) for column in zip(*matrix[::-1], strict=True)]
    return answer == "/".join(matrix)


def unwind(prompt, answer):
    matrix, read = prompt[:-1].split("/"), ""
    while matrix:
        read, matrix = read + matrix[0], ["".join(c) for c in zip(*matrix[1:], strict=True)][::-1]
    return read == answer


def is_solution(prompt, answer):
    equation, variable = prompt[:-1].split(",")
    left, right = equation.replace(variable, f"({answer})").split("=")
    return eval(left) == eval(right)  # the package's text, no model's


def is_conversion(prompt, answer):
    digits, bases = prompt[:-1].split(" ")
    source, target = map(int, bases.split(":"))
    return int(digits, source) == int(answer, target)


def is_value(prompt, answer):
    return eval(prompt[:-1]) == int(answer)  # the package's text, no model's


def is_target(prompt, answer):
    numbers, target = prompt[:-1].split("=")
    used = sorted(map(int, re.findall(r"\d+", answer)))
    return used == sorted(map(int, numbers.split())) and eval(answer) == int(target)


def is_simplest(prompt, answer):
    (a, b), (c, d) = (map(int, text.split("/")) for text in (prompt[:-1], answer))
    return a * d == b * c and math.gcd(c, d) == 1


def is_ladder(prompt, answer):
    words = [prompt[:3], *answer.split(",")]
    pairs = itertools.pairwise(words)
    return words[-1] == prompt[4:7] and all(
        sum(a != b for a, b in zip(*pair, strict=True)) == 1 for pair in pairs
    )


def numbers_of(prompt):
    return map(int, prompt[:-1].split())


ORACLES = {
    "base_conversion": is_conversion,
    "basic_arithmetic": is_value,
    "chain_sum": is_value,
    "count_bits": lambda prompt, answer: bin(int(prompt[:-1])).count("1") == int(answer),
    "countdown": is_target,
    "fraction_simplification": is_simplest,
    "gcd": lambda prompt, answer: math.gcd(*numbers_of(prompt)) == int(answer),
    "lcm": lambda prompt, answer: math.lcm(*numbers_of(prompt)) == int(answer),
    "mini_sudoku": lambda prompt, answer: sudoku_solutions(prompt) == [answer],
    "number_sorting": is_sorted,
    "prime_factorization": is_factorization,
    "products": is_value,
    "puzzle24": is_target,
    "rotate_matrix": rotate,
    "simple_equations": is_solution,
    "spell_backward": lambda prompt, answer: prompt == answer[::-1] + ">",
    "spiral_matrix": unwind,
    "word_ladder": is_ladder,
}


@needs_package
@pytest.mark.parametrize("name", gym_sets.DATA_SETS)
def test_an_example_can_be_solved_from_its_short_prompt(name):
    row = gym_sets.DATA_SETS[name]
    rules = row.rules(gym._source(name, 0))
    config = configuration.get_config(f"{name},bc")
    for example in first(name):
        assert ORACLES[name](example.prompt, example.completion), example
        assert len(example.prompt) < config.prompt_slots
        assert len(example.completion) < config.max_actions < config.evaluate.max_actions
        check = rules.get("check", lambda e, text: text in e.references)
        assert check(example, example.completion)
        # Near is not right: the package gives points for some of these, or executes them.
        for text in (
            "",
            example.completion + "0",
            example.completion[:-1],
            "9**9**9**9",
            "()" * 999,
        ):
            assert not check(example, text), text
        possible = rules.get("possible", lambda e, text: e.completion.startswith(text))
        assert all(possible(example, example.completion[:n]) for n in range(50))


@needs_package
@pytest.mark.stress
def test_examples_are_a_function_of_the_seed_and_of_nothing_else():
    """Not of the order of sets of texts either, which another process has otherwise."""
    code = "from tests.data.test_gym import FAST, first; print({name: first(name, 4) for name in FAST})"
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert other.strip() == str({name: first(name, 4) for name in FAST})


@needs_package
def test_nearby_seeds_of_the_package_share_entries_and_ours_do_not():
    package = importlib.import_module("reasoning_gym")
    one, two = (package.create_dataset("gcd", seed=seed, size=20) for seed in (1, 2))
    assert [entry["question"] for entry in one][1:] == [entry["question"] for entry in two][:-1]
    zero, one = ({e.prompt for e in first("gcd", 300, seed)} for seed in (0, 1))
    assert len(zero & one) < 10


@needs_package
def test_the_stream_goes_on_where_the_package_ends(monkeypatch):
    whole = first("gcd", 12)
    monkeypatch.setattr(gym, "_STRETCH", 5)
    assert first("gcd", 12) == whole


@needs_package
@pytest.mark.parametrize(
    "name", ["mini_sudoku", "word_ladder", "chain_sum", "rotate_matrix", "base_conversion"]
)
def test_splits_have_their_sizes_no_prompt_twice_and_no_twins_in_common(name, tmp_path, capfd):
    task = load_task(f"gym/{name}", data_config(tmp_path))
    assert f"preparing the questions of gym/{name}, once" in capfd.readouterr().err
    splits = contents(task)
    assert {split: len(examples) for split, examples in splits.items()} == SIZES
    assert len({e.prompt for examples in splits.values() for e in examples}) == sum(SIZES.values())
    key = gym_sets.DATA_SETS[name].twin_key
    keys = [{repr(key(e)) for e in examples} for examples in splits.values()]
    assert not any(a & b for a, b in itertools.combinations(keys, 2))
    tokenizer = task.tokenizer(("<bkspc>",))
    assert all(tokenizer.encode(e.prompt + e.completion) for e in splits["test"])
    # Prepared once, and the test questions depend on no other size.
    assert contents(load_task(f"gym/{name}", data_config(tmp_path))) == splits
    assert capfd.readouterr().err == ""
    larger = load_task(f"gym/{name}", data_config(tmp_path, train=50))
    assert contents(larger)["test"] == splits["test"]


def test_a_number_in_any_base_and_a_matrix_in_all_its_turns_are_twins():
    """A question about the result of another asks for what the other shows."""
    number, turn = (
        gym_sets.DATA_SETS[name].twin_key for name in ("base_conversion", "rotate_matrix")
    )
    asked = ["a1 16:2>", "10100001 2:16>", "161 10:7>", "A1 16:9>"]
    assert {number(Example(prompt, "")) for prompt in asked} == {161}
    assert number(Example("b1 16:2>", "")) != 161
    turns = ["123/456/789 1>", "741/852/963 3>", "987/654/321 0>", "369/258/147 2>"]
    assert len({turn(Example(prompt, "")) for prompt in turns}) == 1
    assert turn(Example("321/654/987 1>", "")) != turn(Example(turns[0], ""))  # a mirror is no turn


@needs_package
def test_a_config_file_of_others_prepares_nothing(tmp_path):
    data, usual = data_config(tmp_path), SimpleNamespace(dir="elsewhere")
    with pytest.raises(ValueError, match="asks to prepare data in data.dir"):
        check_harmless("gym/gcd", data, usual)
    load_task("gym/gcd", data)
    check_harmless("gym/gcd", data, usual)


@needs_package
def test_too_few_questions_are_said_in_one_line(tmp_path, monkeypatch):
    row = gym_sets.DATA_SETS["gcd"]
    monkeypatch.setitem(gym_sets.DATA_SETS, "gcd", row._replace(options={"max_value": 6}))
    with pytest.raises(ValueError, match=r"^gym/gcd has only about \d+ different questions: lower"):
        load_task("gym/gcd", data_config(tmp_path, split="prompt"))


@needs_package
def test_another_version_of_the_package_is_said_in_one_line():
    source = gym._source("gcd", 0)
    entry = {"metadata": {"terms": [2, 4]}, "answer": "2"}
    with pytest.raises(ValueError, match="^task='gym/gcd': this version .* 'numbers' .*==0.1.25$"):
        gym._example("gcd", source, entry)
