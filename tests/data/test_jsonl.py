import json
from types import SimpleNamespace

import pytest

from sequencematch.data import jsonl
from sequencematch.data.task import Example


def data_config(path, **changes):
    defaults = {
        "path": str(path),
        "seed": 0,
        "checker": "exact",
        "train": 1000,
        "validation": 5,
        "test": 7,
    }
    return SimpleNamespace(**defaults | changes)


@pytest.fixture
def path(tmp_path):
    """Thirty prompts, each with two completions on lines far apart."""
    file = tmp_path / "pairs.jsonl"
    records = [{"prompt": f"{i}é", "completion": c * (i % 3)} for c in "xy" for i in range(30)]
    file.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    return file


def prompts_of(examples):
    return {example.prompt for example in examples}


def prompts(task, split):
    return prompts_of(task.splits[split])


def test_splits_share_no_prompt_and_lose_no_example(path):
    task = jsonl.task(data_config(path))
    sizes = {split: len(prompts(task, split)) for split in task.splits}
    assert sizes == {"test": 7, "validation": 5, "train": 18}
    assert len(set.union(*(prompts(task, split) for split in task.splits))) == 30


def test_in_training_every_line_teaches_and_elsewhere_each_prompt_is_asked_once(path):
    splits = jsonl.task(data_config(path)).splits
    lines = [(e.prompt, e.completion) for e in jsonl.read(path)]
    taught = [(e.prompt, e.completion) for e in splits["train"]]
    assert taught == [line for line in lines if line[0] in prompts_of(splits["train"])]
    for split in ("validation", "test"):
        assert len(splits[split]) == len(prompts_of(splits[split]))


def test_completions_of_one_prompt_are_the_references_of_each_of_its_examples(path):
    task, lines = jsonl.task(data_config(path)), jsonl.read(path)
    for example in (e for split in task.splits.values() for e in split):
        references = list(dict.fromkeys(e.completion for e in lines if e.prompt == example.prompt))
        assert list(example.references) == references
        assert example.completion in references
        assert all(task.check(example, text) for text in references)


def test_splits_are_a_function_of_the_seed(path):
    task = jsonl.task(data_config(path))
    assert jsonl.task(data_config(path)).splits == task.splits
    assert prompts(jsonl.task(data_config(path, seed=1)), "test") != prompts(task, "test")


def test_held_out_prompts_do_not_depend_on_the_training_size(path):
    more, fewer = jsonl.task(data_config(path)), jsonl.task(data_config(path, train=3))
    assert fewer.splits["test"] == more.splits["test"]
    assert fewer.splits["validation"] == more.splits["validation"]
    assert len(prompts(fewer, "train")) == 3


def test_alphabet_is_that_of_the_file_and_confusable_that_of_completions(path):
    task = jsonl.task(data_config(path))
    tokenizer = task.tokenizer(("<bkspc>",))
    assert task.name == "pairs"
    assert tokenizer.symbols(tokenizer.ordinary) == [*"0123456789xyé"]
    assert tokenizer.symbols(task.confusable(tokenizer)) == ["x", "y"]
    assert task.check(Example("p", "xy"), "xy") and not task.check(Example("p", "xy"), "x")


@pytest.mark.parametrize(
    "line",
    ['{"prompt": "a", "completion": ', '["a", "b"]', '{"prompt": "a"}', "7", '"prompt"']
    + [
        '{"prompt": "a", "completion": 3}',
        '{"prompt": "a", "completion": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_damaged_line_is_named(path, line):
    path.write_text(path.read_text() + line)
    with pytest.raises(ValueError, match=r"^\S*pairs.jsonl:62: .*$"):
        jsonl.task(data_config(path))


def test_line_that_is_not_utf8_is_named(path):
    path.write_bytes(b'{"prompt": "\xff", "completion": "a"}\n')
    with pytest.raises(ValueError, match=r"^\S*pairs.jsonl:1: .*$"):
        jsonl.task(data_config(path))


def test_too_few_prompts_to_train_on_are_refused(path):
    with pytest.raises(ValueError, match="30 distinct prompts: data.test=25 and data.validation=5"):
        jsonl.task(data_config(path, test=25))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(OSError, match="data.path=.*is no file"):
        jsonl.task(data_config(tmp_path / "none.jsonl"))
    with pytest.raises(OSError, match="data.path='' is no file"):
        jsonl.task(data_config(""))
    with pytest.raises(OSError, match="data.path='~nobody/here' is no file"):
        jsonl.task(data_config("~nobody/here"))
