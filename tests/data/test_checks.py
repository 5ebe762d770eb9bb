import dataclasses

import pytest

from sequencematch.data.checks import check_examples
from sequencematch.data.task import Example, character_ids, character_task
from tests.data.doubling import ALPHABET, CONFUSABLE, EXAMPLES, TASK, TOKENIZER
from tests.data.subwords import Subwords

FITS = {"prompt_slots": 7, "max_actions": 3, "answer_actions": 3}  # "36+36=" and "72"
KEYS = {"answer_actions": "evaluate.max_actions"}


@pytest.mark.parametrize("limit", FITS)
def test_first_example_that_does_not_fit_is_named(limit):
    """Also an answer that could never be given: it would always count as wrong."""
    split = "test" if limit == "answer_actions" else "train"
    task = TASK._replace(splits={split: EXAMPLES})
    check_examples(task, TOKENIZER, **FITS)
    less, key = FITS[limit] - 1, KEYS.get(limit, limit)
    first = 10 if limit == "prompt_slots" else 5  # "10+10=", "10"
    message = (
        rf"^config.{key}={less} is too small: example {first} of {split}, .* needs {FITS[limit]}$"
    )
    with pytest.raises(ValueError, match=message):
        check_examples(task, TOKENIZER, **FITS | {limit: less})


def test_cut_example_needs_no_room_for_eos():
    windows = [dataclasses.replace(example, cut=True) for example in EXAMPLES]
    check_examples(TASK._replace(splits={"train": windows}), TOKENIZER, **FITS | {"max_actions": 2})


def refuse(message, example, tokenizer=TOKENIZER):
    task = TASK._replace(splits={"train": [example]}, confusable=lambda tokenizer: [])
    with pytest.raises(ValueError, match=message) as raised:
        check_examples(task, tokenizer, **FITS)
    assert len(str(raised.value).splitlines()) == 1


def test_cut_example_without_a_completion_is_refused():
    refuse(
        "^example 0 of train, '1=': it is cut and has no completion", Example("1=", "", cut=True)
    )


def test_empty_prompt_needs_a_bos():
    check_examples(TASK._replace(splits={"train": [Example("", "1")]}), TOKENIZER, **FITS)
    refuse(
        "^prompt '' has no tokens, and the tokenizer no <bos>", Example("", "a"), Subwords(("a",))
    )


def test_reference_without_ids_is_refused():
    refuse("'x' of '1=x' are not in the alphabet", Example("1=", "1", ("1", "x")))


class Beyond(Subwords):
    """Encodes with an id that stands for no text."""

    def encode(self, text):
        return [{"a": 1, "b": 0, "c": 9}[c] for c in text]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example("c", "a"), r"0 of train, 'c': .* its prompt with ids \[9\], which are none"),
        (Example("a", "b"), r"0 of train, 'a': .* its answer with ids \[0\], which are not among"),
        (Example("a", "a", ("a", "c")), r"'a': .* its answer with ids \[9\], which are not among"),
    ],
)
def test_ids_that_no_decision_can_take_are_refused(example, message):
    refuse(message, example, Beyond(("a",)))


def test_examples_that_are_encoded_without_their_prompt_are_counted():
    tokenizer = Subwords(("=", "1", "2", "=1"))
    examples = [Example("2=", "1"), Example("2=", "2"), Example("1=", "12"), Example("1", "=1")]
    task = TASK._replace(splits={"train": examples, "test": examples[:1]}, confusable=lambda _: [])
    assert check_examples(task, tokenizer, **FITS).apart == 3
    assert check_examples(TASK, TOKENIZER, **FITS).apart == 0


def test_checksum_is_of_all_that_decides_batches():
    """Ids are places in the alphabet: another alphabet permutes them, whatever the examples are."""
    another = [*EXAMPLES[:-1], Example("36+36=", "73")]
    windows = [dataclasses.replace(example, cut=True) for example in EXAMPLES]
    tasks = [
        TASK,
        character_task("double", ALPHABET + "z", TASK.splits, CONFUSABLE),
        TASK._replace(confusable=character_ids("13")),
        TASK._replace(splits={"train": another}),
        TASK._replace(splits={"train": windows}),
        TASK._replace(splits={"test": EXAMPLES}),
    ]
    sums = [check_examples(task, task.tokenizer(("<bkspc>",)), **FITS).checksum for task in tasks]
    sums.append(check_examples(TASK, TASK.tokenizer(("<reset>",)), **FITS).checksum)
    assert len(set(sums)) == len(tasks) + 1
    assert sums[0] == check_examples(TASK._replace(name="again"), TOKENIZER, **FITS).checksum
