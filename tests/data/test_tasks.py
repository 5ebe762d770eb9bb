import sys
import textwrap
from types import SimpleNamespace

import pytest

from sequencematch.data import task, tasks


def test_example_in_the_documentation_of_tasks_works(tmp_path, monkeypatch):
    lines = task.__doc__.splitlines()
    program = textwrap.dedent(
        "\n".join(line for line in lines if line.startswith("    ") or not line)
    )
    assert len(list(filter(str.strip, program.splitlines()))) <= 30
    (tmp_path / "reverse.py").write_text(program.strip())
    monkeypatch.syspath_prepend(tmp_path)

    reverse = tasks.load_task(
        "reverse:task", SimpleNamespace(test=20, validation=10, train=200, seed=0)
    )

    examples = [example for split in reverse.splits.values() for example in split]
    assert [len(reverse.splits[split]) for split in ("train", "validation", "test")] == [
        200,
        10,
        20,
    ]
    assert len({example.prompt for example in examples}) == 230
    assert all(reverse.check(example, example.completion) for example in examples)
    assert not any(reverse.check(example, example.completion + "a") for example in examples)
    tokenizer = reverse.tokenizer(())
    assert all(tokenizer.encode(example.prompt + example.completion) for example in examples)


NOTHING, SOME = [], [task.Example("a>", "a")]


def constructor(**splits):
    return lambda data: task.character_task("mine", "a>", splits, "a")


make_task = constructor(train=SOME, validation=SOME, test=SOME)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda data: data.nothing, "task='mine:make' fails: AttributeError: .*nothing"),
        (lambda data: 3, "makes a int, not a Task"),
        (constructor(train=SOME, test=SOME), "no examples in its split 'validation'"),
        (constructor(train=SOME, validation=SOME, test=NOTHING), "in its split 'test'"),
        (
            constructor(train=SOME, validation=SOME, test=[("a>", "a")]),
            "in its split 'test' that is no Example of texts",
        ),
        (constructor(train=[task.Example("a", None)], validation=SOME, test=SOME), "'train' that"),
        (
            constructor(train=[task.Example("a", "a", ("a", 3))], validation=SOME, test=SOME),
            "'train' that is no Example of texts",
        ),
        (constructor(train={1: SOME}, validation=SOME, test=SOME), "fails: KeyError"),
        (
            lambda data: make_task(data)._replace(check=lambda e, text: text[0] == "a"),
            "fails: IndexE",
        ),
        (
            lambda data: make_task(data)._replace(possible=lambda e, text: text[0] == "a"),
            "fails: IndexE",
        ),
        (
            lambda data: make_task(data)._replace(possible=lambda e, text: text == ""),
            "finds that no answer begins with 'a', a reference does",
        ),
        (lambda data: make_task(data)._replace(confusable="a"), "no function for its confusable"),
        (lambda data: make_task(data)._replace(tokenizer=None), "no function for its tokenizer"),
        (lambda data: make_task(data)._replace(judged_by=None), "no text for its judged_by"),
        (
            lambda data: make_task(data)._replace(metrics="accuracy"),
            "no list of names and functions",
        ),
        (lambda data: make_task(data)._replace(metrics=(3,)), "no list of names and functions"),
    ],
)
def test_user_task_that_is_not_one_is_refused_in_one_line(make, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(make=make))
    with pytest.raises(ValueError, match=message) as raised:
        tasks.load_task("mine:make", SimpleNamespace())
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name, message",
    [
        ("arithmetics", "did you mean 'arithmetic'.*arithmetic, countdown, jsonl"),
        ("no_such_module:task", "task='no_such_module:task' cannot be imported: No module"),
        ("json:no_such_function", "cannot be imported: .*no_such_function"),
        (":task", "cannot be imported"),
        (".json:task", "cannot be imported"),
    ],
)
def test_unknown_name_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as raised:
        tasks.load_task(name, SimpleNamespace())
    assert len(str(raised.value).splitlines()) == 1
