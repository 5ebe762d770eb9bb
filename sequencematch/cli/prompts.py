"""What is asked of a run: texts, or what users say in chats."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sequencematch.data.fields import WriteChat
from sequencematch.data.saved import parse_object


def chat_prompt(turns: Any, write_chat: WriteChat) -> str:
    """The prompt of a chat.

    Raises:
      ValueError: these are no turns, or the template refuses them.
    """
    if not (isinstance(turns, Sequence) and turns and all(map(_is_turn, turns))):
        raise ValueError('a chat must be a list of turns {"role": "...", "content": "..."}')
    return write_chat(turns)


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, Mapping) and all(
        isinstance(turn.get(key), str) for key in ("role", "content")
    )


def user_prompt(text: str, write_chat: WriteChat | None) -> str:
    """The prompt of what a user says: of a run on chats as its chats are written, else the text."""
    return write_chat([{"role": "user", "content": text}]) if write_chat else text


def read_prompts(path: Path, write_chat: WriteChat | None = None) -> list[str]:
    """The prompts of a file: of each JSON line its "prompt" if it ends in .jsonl, else each line.

    Args:
      path: the file.
      write_chat: of a run on chats, what writes them: a line of text is what a user says, and a JSON
        line may have "messages" instead, the turns so far. "prompt" is the whole prompt in any case.

    Raises:
      ValueError: a line has no prompt, or there is none; names file and line.
      OSError: the file cannot be read.
    """
    numbered = read_lines(path)
    if path.suffix != ".jsonl":
        return [user_prompt(line, write_chat) for _, line in numbered]
    return [_prompt_of(line, f"{path}:{n}", write_chat) for n, line in numbered]


def count_prompts(path: Path) -> float:
    """The number of prompts of a file; infinite of a pipe, which can be read only once."""
    return len(read_lines(path)) if path.is_file() else math.inf


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, line) of each line of a file of prompts that is not blank.

    Raises:
      ValueError: there is none, or the file is not UTF-8.
      OSError: it cannot be read.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise OSError(f"--prompts={path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts={path} is not UTF-8: {error.reason}") from error
    numbered = [(n, line.removesuffix("\r")) for n, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"--prompts={path} has no prompts")
    return numbered


def _prompt_of(line: str, place: str, write_chat: WriteChat | None) -> str:
    """The prompt of a JSON line."""
    record = parse_object(line, place)
    if write_chat and "messages" in record:
        try:
            return chat_prompt(record["messages"], write_chat)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    prompt = record.get("prompt")
    if not isinstance(prompt, str):
        chat = ' or {"messages": [...]}' if write_chat else ""
        raise ValueError(f'{place}: expected {{"prompt": "..."}}{chat}')
    return prompt
