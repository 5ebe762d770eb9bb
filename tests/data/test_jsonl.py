import gzip
import json
import tracemalloc
from types import SimpleNamespace

import pytest

from sequencematch.data import jsonl
from sequencematch.data.facts import describe
from sequencematch.data.task import Example


def data_config(path, **changes):
    paths = {
        "path": str(path),
        "validation_path": "",
        "test_path": "",
        "fields": "prompt",
        "checker": "exact",
    }
    defaults = {"seed": 0, "train": 1000, "validation": 5, "test": 7}
    return SimpleNamespace(**paths | defaults | changes)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def pairs_in(path):
    records = [json.loads(line) for line in path.read_text().splitlines() if line]
    return [(record["prompt"], record["completion"]) for record in records]


def contents(task):
    return {split: list(examples) for split, examples in task.splits.items()}


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
    lines = pairs_in(path)
    taught = [(e.prompt, e.completion) for e in splits["train"]]
    assert taught == [line for line in lines if line[0] in prompts_of(splits["train"])]
    for split in ("validation", "test"):
        assert len(splits[split]) == len(prompts_of(splits[split]))


def test_completions_of_one_prompt_are_the_references_of_each_of_its_examples(path):
    task, lines = jsonl.task(data_config(path)), pairs_in(path)
    for example in (e for split in task.splits.values() for e in split):
        references = list(dict.fromkeys(c for prompt, c in lines if prompt == example.prompt))
        assert list(example.references) == references
        assert example.completion in references
        assert all(task.check(example, text) for text in references)


def test_splits_are_a_function_of_the_seed(path):
    task = jsonl.task(data_config(path))
    assert contents(jsonl.task(data_config(path))) == contents(task)
    assert prompts(jsonl.task(data_config(path, seed=1)), "test") != prompts(task, "test")


def test_held_out_prompts_do_not_depend_on_the_training_size(path):
    more, fewer = jsonl.task(data_config(path)), jsonl.task(data_config(path, train=3))
    for split in ("test", "validation"):
        assert contents(fewer)[split] == contents(more)[split]
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


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_called_utf16(path, code):
    path.write_bytes(path.read_text().encode(code))
    with pytest.raises(ValueError, match=r"pairs.jsonl:1: this is UTF-16 or UTF-32: save .* UTF-8"):
        jsonl.task(data_config(path))


def test_a_byte_order_mark_of_utf8_is_no_part_of_the_text(path):
    plain = contents(jsonl.task(data_config(path)))
    path.write_bytes(path.read_text().encode("utf-8-sig"))
    assert contents(jsonl.task(data_config(path))) == plain


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


def test_a_line_of_another_layout_is_told_the_layout_that_reads_it(tmp_path):
    path = write(
        tmp_path / "gsm.jsonl", [{"question": f"{i}?", "answer": "#### 4"} for i in range(20)]
    )
    with pytest.raises(
        ValueError, match='gsm.jsonl:1: .*"question" .text., "answer" .text.*fields=que'
    ):
        jsonl.task(data_config(path))
    task = jsonl.task(data_config(path, fields="question"))
    assert all(e.prompt[-1] == "?" and e.completion == "#### 4" for e in task.splits["train"])


def test_train_of_0_takes_all_and_what_is_left_out_is_told(path):
    every = jsonl.task(data_config(path, train=0))
    assert [len(prompts(every, split)) for split in every.splits] == [18, 5, 7]
    assert every.facts["left_out"] == {"train": 0}
    assert jsonl.task(data_config(path, train=3)).facts["left_out"] == {"train": 15}


def test_unread_keys_are_told_of_with_their_counts(tmp_path):
    """Sixty different inputs of one instruction look like sixty answers to one prompt."""
    records = [{"prompt": "Add.", "input": f"{i}+1", "completion": str(i + 1)} for i in range(60)]
    more = [{"prompt": f"{i}", "completion": "1", "id": i} for i in range(20)]
    task = jsonl.task(data_config(write(tmp_path / "s.jsonl", records + more)))
    assert task.facts["unread_keys"] == {"input": 60, "id": 20}
    assert "input 60, id 20." in " ".join(describe(task.facts))
    every = [{"prompt": f"{i}", "completion": "1", f"key {i}": i} for i in range(30)]
    unread = jsonl.task(data_config(write(tmp_path / "s.jsonl", every))).facts["unread_keys"]
    assert len(unread) == 21 and unread["others"] == 10


def test_a_file_of_empty_completions_is_refused(tmp_path):
    records = [{"prompt": f"{i}", "completion": "", "output": "x"} for i in range(121)]
    with pytest.raises(
        ValueError, match=r"s.jsonl: all 121 completions are empty.*under another key"
    ):
        jsonl.task(data_config(write(tmp_path / "s.jsonl", records)))
    some = jsonl.task(
        data_config(write(tmp_path / "s.jsonl", [records[0] | {"completion": "1"}] + records[1:]))
    )
    assert some.facts["empty_completions"] == 120


def test_repeated_lines_are_told_of_and_repeat_no_question(tmp_path):
    records = [{"prompt": f"{i}", "completion": "1"} for i in range(20)] * 3
    task = jsonl.task(data_config(write(tmp_path / "s.jsonl", records)))
    assert task.facts["repeated_lines"] == 40
    assert [len(task.splits[split]) for split in ("train", "validation", "test")] == [24, 5, 7]


def test_prompts_that_differ_by_white_space_are_one(tmp_path):
    ways = ["{} plus", "{}  plus", " {} plus", "{} plus\n", "{}\tplus"]
    records = [
        {"prompt": way.format(i), "completion": f"{n}"}
        for i in range(20)
        for n, way in enumerate(ways)
    ]
    task = jsonl.task(data_config(write(tmp_path / "s.jsonl", records)))
    numbers = {split: {e.prompt.split()[0] for e in each} for split, each in task.splits.items()}
    assert [len(numbers[split]) for split in ("train", "validation", "test")] == [8, 5, 7]
    assert len(set.union(*numbers.values())) == 20
    assert [len(task.splits[split]) for split in ("train", "validation", "test")] == [40, 5, 7]
    for example in task.splits["test"]:
        assert example.references == ("0", "1", "2", "3", "4")


@pytest.fixture
def files(tmp_path):
    """Files of their own for test and validation; each shares prompts with the next."""
    ranges = {"test_path": range(10), "validation_path": range(8, 20), "path": range(15, 60)}
    return {
        key: str(
            write(
                tmp_path / f"{key}.jsonl",
                [{"prompt": f"{i}", "completion": c} for i in r for c in "ab"],
            )
        )
        for key, r in ranges.items()
    }


def test_validation_and_test_have_files_of_their_own(files):
    task = jsonl.task(data_config(**files, train=0, validation=0, test=0))
    found = {split: {int(p) for p in prompts(task, split)} for split in task.splits}
    assert found == {
        "test": {*range(10)},
        "validation": {*range(10, 20)},
        "train": {*range(20, 60)},
    }
    assert task.facts["shared_prompts"] == 2 + 5 and task.name == "path"
    assert [len(task.splits[split]) for split in task.splits] == [80, 10, 10]
    assert all(e.references == ("a", "b") for each in task.splits.values() for e in each)


def test_a_file_of_its_own_gives_at_most_what_is_asked_and_the_rest_is_told(files):
    task = jsonl.task(data_config(**files, train=7, validation=4, test=3))
    assert [len(prompts(task, split)) for split in task.splits] == [7, 4, 3]
    assert task.facts["left_out"] == {"test": 7, "validation": 6, "train": 33}


def test_one_file_of_its_own_leaves_the_other_split_to_the_first(files):
    files = files | {"validation_path": ""}
    task = jsonl.task(data_config(**files, train=0, validation=4, test=0))
    assert [len(prompts(task, split)) for split in task.splits] == [41, 4, 10]
    assert not prompts(task, "validation") & prompts(task, "train")


def test_a_file_that_only_repeats_held_out_prompts_is_refused(files):
    files = files | {"path": files["test_path"]}
    with pytest.raises(
        ValueError, match="data.path=.* has 0 distinct prompts of its own: none is left"
    ):
        jsonl.task(data_config(**files, train=0, validation=0, test=0))


def test_a_missing_file_of_its_own_is_named(path):
    with pytest.raises(OSError, match="data.test_path='nowhere' is no file"):
        jsonl.task(data_config(path, test_path="nowhere"))


def test_a_compressed_file_gives_the_same_task(path):
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    plain, task = jsonl.task(data_config(path)), jsonl.task(data_config(packed))
    assert contents(task) == contents(plain) and task.name == plain.name == "pairs"


def test_an_example_knows_its_file_and_line(path):
    task = jsonl.task(data_config(path))
    lines = path.read_text().splitlines()
    for split, examples in task.splits.items():
        for i in range(len(examples)):
            file, _, number = examples.place(i).rpartition(":")
            record = json.loads(lines[int(number) - 1])
            assert (file, record["prompt"]) == (str(path), examples[i].prompt), split


def test_texts_are_not_kept_in_memory(tmp_path):
    """About 32 bytes a line are, however long the lines are."""
    records = [{"prompt": f"{i} " + "x" * 2000, "completion": "y" * 1000} for i in range(400)]
    path = write(tmp_path / "long.jsonl", records)
    tracemalloc.start()
    task = jsonl.task(data_config(path))
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert sum(each.nbytes for each in task.splits.values()) < 33 * 400
    assert kept < path.stat().st_size / 10
