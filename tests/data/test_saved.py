"""What a folder keeps of a task is the task again; anything else is refused in one line."""

import gzip
import json
import random

import pytest

from sequencematch.data import saved
from sequencematch.data.checkers import CHECKERS
from sequencematch.data.saved import QUESTIONS, TASK, SavedTask
from sequencematch.data.task import Example, Task, character_task
from sequencematch.data.tokenizer import ByteTokenizer

EDITS = ("<bkspc>",)
SPLITS = {
    "train": [Example("a>", "b")],
    "validation": [Example("b>", "a", ("a", "aa")), Example("", "b", cut=True)],
    "test": [Example("é>", "b\n\u2028")],
}


def make_task(alphabet="ab>é\n\u2028"):
    return character_task("letters", alphabet, SPLITS, "ab")


def save(task, folder):
    saved.save(SavedTask(task, 5, {"apart": 2}), task.tokenizer(EDITS), folder)


def load(folder):
    return saved.load(folder, CHECKERS["exact"], EDITS)


@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_a_saved_task_is_the_task_again(tmp_path, kind):
    task = make_task()
    if kind == "bytes":
        task = Task("letters", SPLITS, ByteTokenizer)
    save(task, tmp_path)
    kept, checksum, facts = load(tmp_path)
    before, after = task.tokenizer(EDITS), kept.tokenizer(EDITS)
    assert (kept.name, checksum, facts) == ("letters", 5, {"apart": 2})
    assert kept.splits == {"test": SPLITS["test"], "validation": SPLITS["validation"]}
    assert (type(after), after.fingerprint) == (type(before), before.fingerprint)
    assert kept.confusable(after) == sorted(task.confusable(before))
    assert kept.judged_by == "accuracy" and kept.check(SPLITS["validation"][0], "aa")


def test_the_files_do_not_depend_on_the_order_of_the_alphabet(tmp_path):
    texts = []
    for seed in range(3):
        alphabet = [*"ab>é\n\u2028"]
        random.Random(seed).shuffle(alphabet)
        save(make_task("".join(alphabet)), tmp_path)
        texts.append([(tmp_path / name).read_bytes() for name in (TASK, QUESTIONS)])
    assert texts[0] == texts[1] == texts[2]


def test_a_tokenizer_of_another_class_is_not_kept():
    class Mine(ByteTokenizer):
        """Of a user."""

    assert saved.can_save(ByteTokenizer()) and not saved.can_save(Mine())


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (TASK, lambda text: text[:20], "is not JSON"),
        (TASK, lambda text: "[" * 10**5, "is not JSON"),
        (TASK, lambda text: "[]", "is no JSON object"),
        (TASK, lambda text: "{}", "is damaged"),
        (TASK, lambda text: text.replace('"characters"', '"words"'), "is damaged"),
        (TASK, lambda text: text.replace('"alphabet": "', '"alphabet": "z'), "put it back"),
        (TASK, lambda text: text.replace('"checksum": 5', '"checksum": "x"'), "is damaged"),
        (
            TASK,
            lambda text: text.replace('"confusable": [', '"confusable": [9999, '),
            "put it back",
        ),
        (QUESTIONS, lambda text: text.replace('"aa"', '"ab"'), "put it back"),
        (QUESTIONS, lambda text: "", "put it back"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, change, words):
    save(make_task(), tmp_path)
    path = tmp_path / name
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=words) as refusal:
        load(tmp_path)
    assert str(path) in str(refusal.value) and len(str(refusal.value).splitlines()) == 1


def test_lost_questions_are_named(tmp_path):
    save(make_task(), tmp_path)
    (tmp_path / QUESTIONS).unlink()
    with pytest.raises(ValueError, match=f"{QUESTIONS} is missing"):
        load(tmp_path)


def write_lines(path, *records):
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    return path


def test_all_completions_of_a_prompt_are_right_and_it_is_asked_once(tmp_path):
    path = write_lines(
        tmp_path / "q.jsonl",
        {"prompt": "a", "completion": "x", "source": "not read", "split": "train"},
        {"prompt": "b", "completion": "y", "references": ["z"]},
        {"prompt": "a", "completion": "w"},
    )
    first, second = saved.read_questions(path)
    assert first == Example("a", "x", ("x", "w"))
    assert (second.prompt, set(second.references)) == ("b", {"y", "z"})


def test_prompts_that_differ_by_white_space_are_one_where_that_is_asked_for(tmp_path):
    lines = [{"prompt": p, "completion": c} for p, c in (("0 plus", "0"), (" 0  plus", "1"))]
    path = tmp_path / "q.jsonl"
    # Two files that were joined: the mark of the second stands in the middle.
    path.write_text("\n".join("\ufeff" + json.dumps(line) for line in lines))
    assert len(saved.read_questions(path)) == 2
    found = saved.read_questions(path, joins_spaces=True)
    assert found == [Example("0 plus", "0", ("0", "1"))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"prompt": "a", "completion": "b"}\n{', ":2 is not JSON"),
        ('\n{"question": "a"}', r':2: expected .* keys "question" \(text\)$'),
        ('{"prompt": "a", "completion": 3}', ":1: expected"),
        ('{"prompt": "\\ud800", "completion": "b"}', ":1: .* UTF-8"),
        ('{"question": "a", "answer": "b"}', ":1: .*data.fields=question reads it"),
        ("\n", "has no questions"),
    ],
)
def test_a_file_of_questions_is_refused_with_its_line(tmp_path, text, words):
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as refusal:
        saved.read_questions(path)
    assert str(path) in str(refusal.value) and len(str(refusal.value).splitlines()) == 1


def test_questions_are_laid_out_as_the_data_or_as_kept_and_may_be_compressed(tmp_path):
    records = [{"question": "a", "answer": "x"}, {"prompt": "b", "completion": "y"}]
    plain = write_lines(tmp_path / "q.jsonl", *records)
    compressed = tmp_path / "q.jsonl.gz"
    compressed.write_bytes(gzip.compress(plain.read_bytes()))
    expected = [Example("a", "x"), Example("b", "y")]
    assert saved.read_questions(plain, "question") == expected
    assert saved.read_questions(compressed, "question") == expected
    compressed.write_bytes(compressed.read_bytes()[:-9])
    with pytest.raises(OSError, match="cannot be read: .*end-of-stream"):
        saved.read_questions(compressed)


def test_a_file_that_is_not_utf_8_or_not_there_is_refused(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("{}", encoding="utf-16")
    with pytest.raises(ValueError, match="is not UTF-8"):
        saved.read_questions(path)
    with pytest.raises(OSError, match="cannot be read: No such file"):
        saved.read_questions(tmp_path / "none.jsonl")
