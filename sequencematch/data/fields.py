"""How a line of JSON is laid out: which keys hold the prompt and the completion."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

Pair = tuple[str, str]  # prompt, completion
# Turns of a chat -> the text before the next.
WriteChat = Callable[[Sequence[Mapping[str, Any]]], str]


class Layout(NamedTuple):
    """One way to write examples as JSON objects.

    Attributes:
      shape: an object of this layout, for messages.
      read: object -> (prompt, completion), None where the object has another layout.
      unread: object -> its keys that are not read, those of objects inside as `KEY.INNER`.
    """

    shape: str
    read: Callable[[Mapping[str, Any]], Pair | None]
    unread: Callable[[Mapping[str, Any]], Iterable[str]]


def _texts(*values: Any) -> Pair | None:
    return values if all(isinstance(value, str) for value in values) else None


def _read_pair(prompt: str, completion: str, record: Mapping[str, Any]) -> Pair | None:
    return _texts(record.get(prompt), record.get(completion))


def _read_instruction(record: Mapping[str, Any]) -> Pair | None:
    """The instruction, then its input on a line of its own, if there is one."""
    instruction, more = record.get("instruction"), record.get("input")
    if not isinstance(instruction, str) or not isinstance(more, str | None):
        return None
    return _texts(f"{instruction}\n{more}" if more else instruction, record.get("output"))


def write_turns(turns: Sequence[Mapping[str, Any]]) -> str:
    """The turns of a chat, a `role: text` line each."""
    return "".join(f"{turn['role']}: {turn['content']}\n" for turn in turns)


def _read_messages(write_chat: WriteChat, record: Mapping[str, Any]) -> Pair | None:
    """The turns before the assistant's last one, as `write_chat` writes them; then that turn's text."""
    turns = record.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    if _turn_fault(turns):
        return None
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    return write_chat(turns[:last]), turns[last]["content"]


def _turn_fault(turns: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with the turns of a chat; "" if nothing is."""
    for number, turn in enumerate(turns, 1):
        for key in ("role", "content"):
            if not isinstance(turn.get(key), str):
                kind = _KINDS[type(turn[key])] if key in turn else "none"
                return f'turn {number} has no text as its "{key}" ({kind})'
    has_answer = any(turn["role"] == "assistant" for turn in turns)
    return "" if has_answer else 'no turn has the role "assistant"'


def _unread_of(keys: Collection[str], record: Mapping[str, Any]) -> Iterable[str]:
    return record.keys() - keys


def _unread_of_messages(record: Mapping[str, Any]) -> Iterable[str]:
    """Also keys of turns, and turns that come after the assistant's last one."""
    turns = record["messages"]
    inner = {f"messages.{key}" for turn in turns for key in turn.keys() - {"role", "content"}}
    after = {"messages after the answer"} if turns[-1]["role"] != "assistant" else set()
    return (record.keys() - {"messages"}) | inner | after


def _pair_layout(prompt: str, completion: str) -> Layout:
    shape = f'{{"{prompt}": "...", "{completion}": "..."}}'
    keys = frozenset((prompt, completion))
    return Layout(shape, partial(_read_pair, prompt, completion), partial(_unread_of, keys))


# data.fields -> the layout of each line.
LAYOUTS: Mapping[str, Layout] = {
    "prompt": _pair_layout("prompt", "completion"),
    "question": _pair_layout("question", "answer"),
    "instruction": Layout(
        '{"instruction": "...", "input": "..." (or none), "output": "..."}',
        _read_instruction,
        partial(_unread_of, frozenset(("instruction", "input", "output"))),
    ),
    "messages": Layout(
        '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
        partial(_read_messages, write_turns),
        _unread_of_messages,
    ),
}


def choose_layout(fields: str, write_chat: WriteChat = write_turns) -> Layout:
    """The layout that a key of `LAYOUTS` names, with chats written by a function."""
    layout = LAYOUTS[fields]
    is_chat = fields == "messages"
    return layout._replace(read=partial(_read_messages, write_chat)) if is_chat else layout


_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_SHOWN, _LETTERS = 8, 40  # keys that a message lists, and letters of each


def explain_misfit(record: Any, fields: str) -> str:
    """What is expected of a line, what it has instead, and which layout would read it."""
    expected = f"expected {LAYOUTS[fields].shape} with texts"
    if not isinstance(record, dict):
        return f"{expected}, found {_KINDS[type(record)]}"
    found = [f'"{key[:_LETTERS]}" ({_KINDS[type(value)]})' for key, value in record.items()]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    keys = f"the keys {', '.join(found[:_SHOWN])}{more}" if found else "no keys"
    turns = record.get("messages")
    if fields == "messages" and isinstance(turns, list) and all(isinstance(x, dict) for x in turns):
        return f"{expected}: {_turn_fault(turns)}"
    reads = [name for name, layout in LAYOUTS.items() if layout.read(record) is not None]
    advice = "; " + " or ".join(f"data.fields={name}" for name in reads) + " reads it"
    return f"{expected}, found {keys}{advice if reads else ''}"
