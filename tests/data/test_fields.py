"""Which keys of a line are read, in each layout, and what is said of the others."""

import pytest

from sequencematch.data.fields import LAYOUTS, choose_layout, explain_misfit

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
CASES = [
    ("prompt", {"prompt": "a", "completion": "b"}, ("a", "b")),
    ("question", {"question": "a", "answer": "b"}, ("a", "b")),
    ("instruction", {"instruction": "a", "input": "i", "output": "b"}, ("a\ni", "b")),
    ("instruction", {"instruction": "a", "input": "", "output": "b"}, ("a", "b")),
    ("instruction", {"instruction": "a", "input": None, "output": "b"}, ("a", "b")),
    ("instruction", {"instruction": "a", "output": "b"}, ("a", "b")),
    ("messages", {"messages": [USER, ANSWER]}, ("user: 2+2?\n", "4")),
    ("messages", {"messages": [ANSWER]}, ("", "4")),
    (
        "messages",
        {"messages": [{"role": "system", "content": "Add."}, USER, ANSWER, USER, ANSWER]},
        ("system: Add.\nuser: 2+2?\nassistant: 4\nuser: 2+2?\n", "4"),
    ),
    ("messages", {"messages": [USER, ANSWER, USER]}, ("user: 2+2?\n", "4")),
]


@pytest.mark.parametrize(("fields", "record", "pair"), CASES)
def test_prompt_and_completion_are_read(fields, record, pair):
    assert LAYOUTS[fields].read(record) == pair


def test_chats_are_written_by_the_function_that_is_given():
    """It is given the turns before the answer, whole; other layouts have no chats."""
    turns = [USER | {"name": "x"}, ANSWER, USER]
    layout = choose_layout("messages", repr)
    assert layout.read({"messages": [*turns, ANSWER]}) == (repr(turns), "4")
    assert choose_layout("prompt", repr) is LAYOUTS["prompt"]


@pytest.mark.parametrize(
    ("fields", "record"),
    [
        ("prompt", {"prompt": "a", "completion": 3}),
        ("prompt", {"completion": "b"}),
        ("instruction", {"instruction": "a", "input": 3, "output": "b"}),
        ("instruction", {"input": "i", "output": "b"}),
        ("messages", {"messages": "hello"}),
        ("messages", {"messages": []}),
        ("messages", {"messages": [USER]}),
        ("messages", {"messages": ["hello"]}),
        ("messages", {"messages": [{"role": "user", "content": ["parts"]}, ANSWER]}),
        ("messages", {"messages": [USER, {"role": "assistant"}]}),
    ],
)
def test_an_object_of_another_layout_is_not_read(fields, record):
    assert LAYOUTS[fields].read(record) is None


@pytest.mark.parametrize(
    ("fields", "record", "unread"),
    [
        ("prompt", {"prompt": "a", "input": "i", "completion": "b"}, {"input"}),
        ("question", {"question": "a", "answer": "b"}, set()),
        ("instruction", {"instruction": "a", "output": "b", "id": 3}, {"id"}),
        ("messages", {"messages": [USER, ANSWER]}, set()),
        (
            "messages",
            {"messages": [USER | {"name": "x"}, ANSWER, USER], "source": 1},
            {"messages.name", "source", "messages after the answer"},
        ),
    ],
)
def test_keys_that_are_not_read_are_named(fields, record, unread):
    assert set(LAYOUTS[fields].unread(record)) == unread


def test_a_misfit_is_told_what_it_has_and_which_layout_reads_it():
    message = explain_misfit({"question": "a", "answer": "b"}, "prompt")
    assert message.startswith(
        'expected {"prompt": "...", "completion": "..."} with texts, found the '
    )
    assert message.endswith(
        'keys "question" (text), "answer" (text); data.fields=question reads it'
    )
    assert explain_misfit({"prompt": "a", "completion": 3}, "prompt").endswith(
        'found the keys "prompt" (text), "completion" (a number)'
    )
    assert explain_misfit([1], "prompt").endswith("found a list")
    assert explain_misfit({}, "prompt").endswith("found no keys")
    many = explain_misfit({f"key {i}": None for i in range(12)} | {"k" * 500: 1}, "messages")
    assert '"key 7" (null) and 5 more' in many and len(many) < 500


@pytest.mark.parametrize(
    ("turns", "fault"),
    [
        ([USER, ANSWER | {"content": None}, ANSWER], 'turn 2 has no text as its "content" (null)'),
        ([{"role": "user"}, ANSWER], 'turn 1 has no text as its "content" (none)'),
        ([{"content": "4"}], 'turn 1 has no text as its "role" (none)'),
        ([USER], 'no turn has the role "assistant"'),
        ([], 'no turn has the role "assistant"'),
    ],
)
def test_of_a_chat_that_is_not_read_the_first_fault_is_named(turns, fault):
    message = explain_misfit({"messages": turns, "tools": []}, "messages")
    assert message.startswith('expected {"messages": [') and message.endswith(f"texts: {fault}")
