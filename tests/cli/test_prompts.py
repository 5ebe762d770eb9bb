"""The prompts of a file, and what a user says to a run on chats."""

import pytest

from sequencematch.cli.prompts import read_prompts, user_prompt
from sequencematch.data.fields import write_turns

TURNS = '[{"role": "user", "content": "5 + 3"}]'


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("p.txt", "a b \n\n\u2028c\r\n", ["a b ", "\u2028c"]),
        ("p", '{"prompt": "a"}', ['{"prompt": "a"}']),
        ("p.jsonl", '{"prompt": "a\\n"}\n\n{"prompt": "", "id": 3}\n', ["a\n", ""]),
    ],
)
def test_prompts_are_lines_or_the_prompts_of_json_lines(tmp_path, name, text, prompts):
    path = tmp_path / name
    path.write_text(text, newline="")
    assert read_prompts(path) == prompts


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\n", "has no prompts"),
        (b"\xff\xfe", "is not UTF-8"),
        (b'{"prompt": "a"}\n{"question": "b"}', ":2: expected"),
        (b"a", ":1 is not JSON"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path, data, words):
    path = tmp_path / "p.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words) as refusal:
        read_prompts(path)
    assert str(path) in str(refusal.value) and len(str(refusal.value).splitlines()) == 1


def test_what_is_said_to_a_run_on_chats_is_a_users_turn(tmp_path):
    """As a chat of one turn is written; a "prompt" is whole already."""
    chat = write_turns([{"role": "user", "content": "5 + 3"}])
    assert user_prompt("5 + 3", write_turns) == chat != "5 + 3" == user_prompt("5 + 3", None)
    lines, records = tmp_path / "p.txt", tmp_path / "p.jsonl"
    lines.write_text("5 + 3\n")
    records.write_text(f'{{"messages": {TURNS}}}\n{{"prompt": "5 + 3"}}\n')
    assert read_prompts(lines, write_turns) == [chat]
    assert read_prompts(records, write_turns) == [chat, "5 + 3"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"messages": "5 + 3"}', "a chat must be a list of turns"),
        ('{"messages": []}', "a chat must be a list of turns"),
        ('{"messages": [{"content": "5 + 3"}]}', "a chat must be a list of turns"),
        ('{"messages": [{"role": "user", "content": ["5"]}]}', "a chat must be a list of turns"),
        ('{"question": "5 + 3"}', 'expected {"prompt": "..."} or {"messages": [...]}'),
    ],
)
def test_what_is_no_chat_is_refused(tmp_path, line, words):
    path = tmp_path / "p.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError) as refusal:
        read_prompts(path, write_turns)
    assert f"{path}:1: {words}" in str(refusal.value)
