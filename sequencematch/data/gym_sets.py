"""How entries of reasoning-gym become examples: a row for each of its data sets.

The package's questions are sentences of 50 to 400 characters. A row makes a short prompt and answer of
an entry's metadata, and says which other answers are right. The package's own checkers are not used:
several give points for wrong answers, and some execute what they are given.
"""

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, NamedTuple

from sequencematch.data import gym_rules
from sequencematch.data.mathematics import twin_key
from sequencematch.data.task import Example


class DataSet(NamedTuple):
    """How the entries of one data set become examples.

    Attributes:
      prompt: an entry's metadata, with its `answer` and the package's object as `source` -> the prompt.
      answer: the same -> the completion.
      options: of the package's generator.
      rules: the package's object -> the attributes of the task that say what is right; where nothing is
        said, the completion alone is.
      twin_key: what an example has in common with its twins.
    """

    prompt: Callable[[Mapping[str, Any]], str]
    answer: Callable[[Mapping[str, Any]], str]
    options: Mapping[str, Any] = {}
    rules: Callable[[Any], Mapping[str, Callable[[Example, str], bool]]] = lambda source: {}
    twin_key: Callable[[Example], Hashable] = twin_key


def _words(numbers: Collection) -> str:
    return " ".join(map(str, numbers))


def _rows(grid: Collection) -> str:
    return "/".join("".join(map(str, row)) for row in grid)


def _expression(m: Mapping[str, Any]) -> str:
    return m["expression"].replace(" ", "") + "="


def _answer(m: Mapping[str, Any]) -> str:
    return m["answer"].replace(" ", "")


def _whole(numbers: Collection[str]) -> str:
    return " ".join(number.removesuffix(".0") for number in numbers)


def _numbers(example: Example) -> Hashable:
    """The given numbers without the target."""
    return tuple(sorted(example.prompt.split("=")[0].split()))


def _value(example: Example) -> Hashable:
    """The number to convert, whatever base it is in."""
    digits, bases = example.prompt.split()
    return int(digits, int(bases.split(":")[0]))


def _least_turn(example: Example) -> Hashable:
    """The matrix, of its four turns the least."""
    turns = [tuple(example.prompt.split()[0].split("/"))]
    while len(turns) < 4:
        turns.append(tuple("".join(column) for column in zip(*turns[-1][::-1], strict=True)))
    return min(turns)


_EXPRESSIONS = {"rules": lambda source: gym_rules.EXPRESSIONS, "twin_key": _numbers}

DATA_SETS = {
    "base_conversion": DataSet(
        lambda m: f"{m['source_repr']} {m['source_base']}:{m['target_base']}>",
        _answer,
        twin_key=_value,
    ),
    "basic_arithmetic": DataSet(_expression, _answer, {"max_terms": 4, "max_digits": 2}),
    "chain_sum": DataSet(_expression, _answer, {"max_terms": 4, "max_digits": 2}),
    "count_bits": DataSet(lambda m: f"{m['number']}>", _answer, {"max_n": 2**20}),
    "countdown": DataSet(
        lambda m: f"{_words(m['numbers'])}={m['target']}>",
        _answer,
        dict(min_numbers=3, max_numbers=3, max_value=25, min_target=1, max_target=199),
        **_EXPRESSIONS,
    ),
    "fraction_simplification": DataSet(
        lambda m: f"{m['numerator']}/{m['denominator']}=",
        lambda m: f"{m['simplified_numerator']}/{m['simplified_denominator']}",
        {"max_value": 100, "max_factor": 20},
    ),
    "gcd": DataSet(lambda m: f"{_words(m['numbers'])}>", _answer),
    "lcm": DataSet(lambda m: f"{_words(m['numbers'])}>", _answer, {"max_value": 300}),
    "mini_sudoku": DataSet(
        lambda m: f"{_rows(m['puzzle'])}>",  # 0 is empty; each has one solution
        lambda m: _rows(m["solution"]),
        twin_key=lambda example: example.completion,
    ),
    "number_sorting": DataSet(
        lambda m: (
            _whole(m["original_numbers"]) + {"ascending": "<", "descending": ">"}[m["direction"]]
        ),
        lambda m: _whole(m["sorted_numbers"]),
        {"max_numbers": 6, "max_decimals": 0},
    ),
    "prime_factorization": DataSet(
        lambda m: f"{m['number']}>",
        lambda m: "*".join(map(str, m["factors"])),
        {"max_value": 100_000},
        lambda source: gym_rules.FACTORS,
    ),
    "products": DataSet(_expression, _answer, {"max_digits": 3}),
    "puzzle24": DataSet(lambda m: f"{_words(m['numbers'])}=24>", _answer, **_EXPRESSIONS),
    "rotate_matrix": DataSet(
        lambda m: f"{_rows(m['matrix'])} {m['num_rotations']}>",
        lambda m: _rows(m["solution"]),
        {"max_n": 3},
        twin_key=_least_turn,
    ),
    "simple_equations": DataSet(
        lambda m: f"{m['equation'].replace(' ', '')},{m['variable']}=", _answer, {"max_terms": 3}
    ),
    "spell_backward": DataSet(
        lambda m: f"{m['word']}>",
        _answer,
        twin_key=lambda example: min(example.prompt[:-1], example.completion),
    ),
    "spiral_matrix": DataSet(lambda m: f"{_rows(m['matrix'])}>", _answer, {"max_n": 4}),
    "word_ladder": DataSet(
        lambda m: f"{m['start_word']} {m['end_word']}>",
        lambda m: ",".join(
            gym_rules.shortest_ladder(m["source"].word_graphs[3], m["start_word"], m["end_word"])
        ),
        {"min_word_length": 3, "max_word_length": 3},
        rules=lambda source: gym_rules.ladders(source.word_graphs[3]),
        twin_key=lambda example: tuple(sorted(example.prompt[:-1].split())),
    ),
}

# Why the others are not there.
_REASONS = {
    "has no demonstrations: its answers are None": (
        "boxnet graph_color propositional_logic rubiks_cube rush_hour"
    ),
    "takes any text for right": "game_of_life_halting",
    "asks about today's date, so its questions are no function of the seed": "time_intervals",
    "is a mixture of other data sets": "composite",
    "asks in prose that its metadata do not shorten": (
        "ab acre advanced_geometry aiw bf caesar_cipher calendar_arithmetic circuit_logic codeio "
        "coin_flip color_cube_rotation course_schedule cryptarithm dice emoji_mystery "
        "family_relationships figlet_font gsm_symbolic jugs knights_knaves leg_counting "
        "letter_counting letter_jumble list_functions mahjong_puzzle needle_haystack number_format "
        "quantum_lock self_reference sentence_reordering simple_geometry string_insertion "
        "string_manipulation string_splitting string_synthesis syllogism tower_of_hanoi zebra_puzzles"
    ),
    "asks about a drawing or a large grid": (
        "arc_1d arc_agi binary_matrix futoshiki game_of_life kakurasu knight_swap largest_island "
        "manipulate_matrix maze modulo_grid n_queens path_star pool_matrix rearc rectangle_count "
        "rotten_oranges shortest_path sokoban sudoku survo tsumego"
    ),
    "has no short prompt here yet": (
        "binary_alternation bitwise_arithmetic complex_arithmetic count_primes decimal_arithmetic "
        "decimal_chain_sum group_anagrams intermediate_integration isomorphic_strings "
        "number_filtering number_sequence palindrome_generation palindrome_partitioning "
        "polynomial_equations polynomial_multiplication power_function ransom_note "
        "simple_integration word_sequence_reversal word_sorting"
    ),
}
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}
