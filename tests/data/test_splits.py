import itertools
from collections import Counter

import pytest

from sequencematch.data import arithmetic, mathematics
from sequencematch.data.mathematics import twin_key
from sequencematch.data.splits import SHARES, SPLITS, keep_split, split_of
from sequencematch.data.task import Example
from tests.data.preparation import contents, data_config, questions, solve

FEW = questions(bases=(2, 10), entropy=(1.0, 2.0))  # small numbers, and so many twins


def stream(count, spec=FEW):
    return list(itertools.islice(mathematics.distinct_questions(spec), count))


def key_slowly(example):
    """Base and absolute values of a question in a base, as integers."""
    base, p, q, _ = solve(example.prompt)
    return base, *sorted((abs(p), abs(q)))


def test_twins_have_one_base_and_the_same_absolute_numbers():
    examples = stream(300) + stream(100, questions(bases=(16,), entropy=(1.0, 1.5)))
    found = Counter()
    for one, other in itertools.combinations(examples, 2):
        same = twin_key(one) == twin_key(other)
        assert same == (key_slowly(one) == key_slowly(other)), (one, other)
        found[same] += 1
    assert min(found.values()) > 100


@pytest.mark.parametrize(
    ("prompt", "key"),
    [
        ("In base 10, what is -45 - 367?", ("10", "367", "45")),
        ("In base 16, what is -a + 3f?", ("16", "3f", "a")),
        ("What is -2.5 divided by 10?", ("10", "2.5")),
        ("Calculate 17 + -3/4.", ("17", "3", "4")),
        ("How many millilitres are in a litre?", ("How many millilitres are in a litre?",)),
    ],
)
def test_key_is_the_base_and_the_numbers_or_else_the_prompt(prompt, key):
    assert twin_key(Example(prompt, "")) == key


def test_twins_fall_into_one_split():
    examples = stream(600)
    splits = {
        name: [key_slowly(example) for example in part] for name, part in by_twins(examples).items()
    }
    assert sum(map(len, splits.values())) == 600
    for one, other in itertools.combinations(splits.values(), 2):
        assert not {*one} & {*other}
    # Some of them would not, one by one.
    first, rest = examples[:100], examples[100:]
    assert {*map(key_slowly, first)} & {*map(key_slowly, rest)}


def by_twins(examples, seed=0):
    streams = SPLITS["twins"](iter(examples), seed, twin_key)
    return {name: list(stream) for name, stream in streams.items()}


def test_splits_have_their_shares_of_the_groups_and_another_seed_draws_anew():
    alone = [Example(f"Is {number} prime?", "") for number in range(4000)]
    for seed in (0, 1):
        for name, examples in by_twins(alone, seed).items():
            sigma = (4000 * SHARES[name] * (1 - SHARES[name])) ** 0.5
            assert abs(len(examples) - 4000 * SHARES[name]) < 4 * sigma
    same = sum(
        split_of(example, 0, twin_key) == split_of(example, 1, twin_key) for example in alone
    )
    agree = sum(share**2 for share in SHARES.values())  # were the two independent
    assert abs(same / 4000 - agree) < 4 * (agree * (1 - agree) / 4000) ** 0.5


def test_group_is_held_out_as_often_whatever_its_size():
    """So held-out questions are distributed like those to train on."""
    groups = [(number, copy) for number in range(3000) for copy in range(1 + 9 * (number % 2))]
    examples = [Example(f"Is {'-' * copy}{number} prime?", "") for number, copy in groups]
    test = [int(twin_key(example)[0]) % 2 for example in by_twins(examples)["test"]]
    share = sum(test) / len(test)  # of the questions in groups of ten
    assert abs(share - 10 / 11) < 0.02


def test_stream_with_too_few_groups_ends_in_one_line():
    endless = (Example("What is 3 + 4" + "?" * i, "7") for i in itertools.count(1))
    with pytest.raises(ValueError, match="^data.split='twins' .* set data.split to 'prompt'$"):
        missing = next(name for name in SHARES if name != split_of(Example("3 4", ""), 0, twin_key))
        next(keep_split(endless, missing, 0, twin_key))


SIZES = {"test": 20, "validation": 10, "train": 40}


def test_splits_by_prompt_are_stretches_of_the_stream(tmp_path):
    """As they always were, in the folder where they always were."""
    splits = contents(arithmetic.task(data_config(tmp_path, split="prompt", bases=(10,))))
    examples = iter(stream(70, questions(bases=(10,), entropy=(1.0, 2.0))))
    assert splits == {name: list(itertools.islice(examples, n)) for name, n in SIZES.items()}
    name = "arithmetic__add_or_sub_in_base-base10-entropy1.0to2.0-seed0-test20-validation10-train40"
    assert (tmp_path / "mathematics" / name / "1.0.0").is_dir()


def test_prepared_splits_have_no_twins_in_common(task):
    splits = contents(task)
    assert {name: len(examples) for name, examples in splits.items()} == SIZES
    keys = [{*map(key_slowly, examples)} for examples in splits.values()]
    assert not any(one & other for one, other in itertools.combinations(keys, 2))


@pytest.mark.parametrize("split", SPLITS)
def test_test_questions_depend_on_no_other_size(tmp_path, split):
    sizes = [{}, {"train": 60}, {"validation": 12, "train": 5}]
    found = [
        contents(arithmetic.task(data_config(tmp_path, split=split, **changes)))
        for changes in sizes
    ]
    assert found[0]["test"] == found[1]["test"] == found[2]["test"]
    assert found[0]["validation"] == found[1]["validation"] == found[2]["validation"][:10]
    assert found[0]["train"] == found[1]["train"][:40]


def test_published_questions_are_divided_likewise(monkeypatch):
    published = {"test": stream(200)[:100], "train": stream(200)[100:]}
    monkeypatch.setattr(arithmetic.prepared, "read_split", lambda _, name, *__: published[name])
    divide = arithmetic.PUBLISHED_SPLITS["twins"]
    splits = divide(None, data_config("", test=10, validation=5, train=30))
    assert {name: len(found) for name, found in splits.items()} == {
        "test": 10,
        "validation": 5,
        "train": 30,
    }
    assert {*splits["test"]} <= {*published["test"]}
    assert {*splits["train"], *splits["validation"]} <= {*published["train"]}
    keys = [{*map(key_slowly, found)} for found in splits.values()]
    assert not any(one & other for one, other in itertools.combinations(keys, 2))
    with pytest.raises(ValueError, match=r"^data.train=200: math_dataset has only \d+ questions"):
        divide(None, data_config("", test=10, validation=5, train=200))


def test_questions_that_train_has_in_another_base_are_known_by_words_and_answer():
    """Against a search through all pairs."""
    examples = stream(400, questions(bases=(), entropy=(1.0, 2.0)))
    train, asked = examples[:200], examples[200:]
    found = mathematics.are_in_other_bases(asked, train)
    assert 20 < sum(found) < 180
    for question, known in zip(asked, found, strict=True):
        words = question.prompt.split(", ", 1)[1]
        same = [x for x in train if x.prompt.endswith(f", {words}")]
        assert known == any(x.completion == question.completion for x in same)
