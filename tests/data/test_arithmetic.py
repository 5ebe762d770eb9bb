import json
import random

import pytest

from sequencematch.data import arithmetic
from sequencematch.data.tokenizer import CharTokenizer
from tests.data.preparation import contents, data_config


def test_splits_have_their_sizes_and_are_disjoint(task):
    splits = contents(task)
    assert {name: len(s) for name, s in splits.items()} == {
        "train": 40,
        "validation": 10,
        "test": 20,
    }
    assert len({example.prompt for split in splits.values() for example in split}) == 70


def test_alphabet_is_what_the_texts_are_made_of(task):
    texts = [e.prompt + e.completion for split in task.splits.values() for e in split]
    tokenizer = task.tokenizer(())
    assert tokenizer.symbols(tokenizer.ordinary) == sorted(set("".join(texts)))
    assert set(tokenizer.symbols(task.confusable(tokenizer))) <= set("0123456789abcdef")


def test_confusable_are_the_digits_of_the_bases(tmp_path):
    task = arithmetic.task(data_config(tmp_path, bases=(3, 12), train=2, validation=1, test=1))
    assert task.confusable(CharTokenizer("0123456789abc")) == list(range(3, 15))
    own = task.tokenizer(())  # few questions lack some of them
    assert own.symbols(task.confusable(own)) == [*"0123456789ab"]


def test_answer_is_right_if_it_is_the_completion(task):
    example = task.splits["test"][0]
    assert task.check(example, example.completion)
    assert not task.check(example, example.completion + "0")


def test_questions_are_made_once(task, folder, monkeypatch):
    monkeypatch.setattr(
        arithmetic, "distinct_questions", lambda questions: pytest.fail("prepared again")
    )
    monkeypatch.setattr(arithmetic, "check", lambda questions: pytest.fail("probed again"))
    assert contents(arithmetic.task(data_config(folder))) == contents(task)


def test_preparing_leaves_global_random_unchanged(tmp_path):
    random.seed(3)
    expected = random.random()
    random.seed(3)
    arithmetic.task(data_config(tmp_path, train=2, validation=1, test=1))
    assert random.random() == expected


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source": "web"}, "data.source='web': allowed are generator, tfds"),
        ({"source": "tfds", "bases": (10,)}, "every base: set data.bases to"),
        ({"source": "tfds", "module": "arithmetic__mull"}, "did you mean 'arithmetic__mul'"),
        ({"source": "tfds", "module": "arithmetic__mul"}, "needs TensorFlow"),
        ({"split": "twin"}, "data.split='twin': allowed are twins, prompt"),
        ({"validation": 0}, "allowed are >= 1"),
        ({"bases": (40,)}, "allowed are 2 to 16"),
    ],
)
def test_impossible_parameters_are_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arithmetic.task(data_config(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_data_set_that_tfds_has_no_code_for_is_not_opened(tmp_path, monkeypatch):
    """From files alone tfds imports whatever module they name."""
    (tmp_path / "payload.py").write_text("raise AssertionError('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    files = tmp_path / "data" / "math_dataset" / "evil" / "1.0.0"
    files.mkdir(parents=True)
    info = {"name": "math_dataset", "configName": "evil", "version": "1.0.0"}
    (files / "dataset_info.json").write_text(json.dumps(info))
    (files / "features.json").write_text(json.dumps({"pythonClassName": "payload.Feature"}))
    data = data_config(tmp_path / "data", source="tfds", module="evil")
    assert arithmetic.is_prepared(data)
    with pytest.raises(ValueError, match="data.module='evil' does not exist"):
        arithmetic.task(data)


def test_data_is_prepared_for_these_parameters_only(tmp_path):
    assert not arithmetic.is_prepared(data_config(tmp_path))
    arithmetic.task(data_config(tmp_path))
    assert arithmetic.is_prepared(data_config(tmp_path))
    others = [{"train": 41}, {"seed": 1}, {"bases": (10,)}, {"source": "tfds"}, {"split": "prompt"}]
    for other in others:
        assert not arithmetic.is_prepared(data_config(tmp_path, **other))
