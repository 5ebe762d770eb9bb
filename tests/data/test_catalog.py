import sys
import textwrap
from types import SimpleNamespace

import pytest

from sequencematch.data import task, tasks


def test_the_documented_task_of_a_user_runs(tmp_path, monkeypatch):
    lines = task.__doc__.splitlines()
    program = textwrap.dedent(
        "\n".join(line for line in lines if line.startswith("    ") or not line)
    )
    assert len(list(filter(str.strip, program.splitlines()))) <= 30
    (tmp_path / "reverse.py").write_text(program.strip())
    monkeypatch.syspath_prepend(tmp_path)

    made = tasks.load_task(
        "reverse:task", SimpleNamespace(test=20, validation=10, train=200, seed=0)
    )

    examples = [example for split in made.splits.values() for example in split]
    assert [len(made.splits[split]) for split in ("train", "validation", "test")] == [200, 10, 20]
    assert len({example.prompt for example in examples}) == 230
    assert all(made.check(example, example.completion) for example in examples)
    assert not any(made.check(example, example.completion + "a") for example in examples)
    assert set("".join(map("".join, examples))) <= set(made.alphabet)


NOTHING, SOME = [], [task.Example("a>", "a")]


def with_splits(**splits):
    return lambda data: task.Task("mine", "a>", splits, "a", task.exact)


whole = with_splits(train=SOME, validation=SOME, test=SOME)


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda data: data.nothing, "task='mine:make' fails: AttributeError: .*nothing"),
        (lambda data: 3, "makes a int, not a Task"),
        (with_splits(train=SOME, test=SOME), "no examples in its split 'validation'"),
        (with_splits(train=SOME, validation=SOME, test=NOTHING), "in its split 'test'"),
        (
            with_splits(train=SOME, validation=SOME, test=[("a>", "a")]),
            "in its split 'test' that is no Example of two texts",
        ),
        (with_splits(train=[task.Example("a", None)], validation=SOME, test=SOME), "'train' that"),
        (with_splits(train={1: SOME}, validation=SOME, test=SOME), "fails: KeyError"),
        (lambda data: whole(data)._replace(check=lambda e, text: text[0] == "a"), "fails: IndexE"),
        (lambda data: whole(data)._replace(confusable=None), "no text for its confusable"),
        (lambda data: whole(data)._replace(alphabet=["a"]), "no text for its alphabet"),
    ],
)
def test_what_is_no_task_is_one_clear_line(made, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(make=made))
    with pytest.raises(ValueError, match=message) as raised:
        tasks.load_task("mine:make", SimpleNamespace())
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name, message",
    [
        ("arithmetics", "did you mean 'arithmetic'.*arithmetic, jsonl"),
        ("no_such_module:task", "task='no_such_module:task' cannot be imported: No module"),
        ("json:no_such_function", "cannot be imported: .*no_such_function"),
        (":task", "cannot be imported"),
        (".json:task", "cannot be imported"),
    ],
)
def test_an_unknown_name_is_one_clear_line(name, message):
    with pytest.raises(ValueError, match=message) as raised:
        tasks.load_task(name, SimpleNamespace())
    assert len(str(raised.value).splitlines()) == 1
