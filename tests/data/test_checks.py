import pytest

from sequencematch.data.checks import check_examples
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import CharTokenizer
from tests.data.doubling import EXAMPLES, TASK, TOKENIZER

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


def test_checksum_is_of_all_that_decides_batches():
    """Ids are places in the alphabet: another alphabet permutes them, whatever the examples are."""
    another = [*EXAMPLES[:-1], Example("36+36=", "73")]
    tasks = [
        TASK,
        TASK._replace(alphabet=TASK.alphabet + "z"),
        TASK._replace(confusable="13"),
        TASK._replace(splits={"train": another}),
        TASK._replace(splits={"test": EXAMPLES}),
    ]
    sums = [check_examples(task, CharTokenizer(task.alphabet), **FITS) for task in tasks]
    assert len(set(sums)) == len(tasks)
    assert sums[0] == check_examples(TASK._replace(name="again"), TOKENIZER, **FITS)
