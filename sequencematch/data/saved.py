"""What a run's folder keeps of its task, so that answers can be asked for and judged without the data.

task.json has the tokenizer, and what is known of the data; questions.jsonl has the test and the
validation questions, in the lines that `--data` takes as well.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sequencematch.data.checkers import Judge
from sequencematch.data.fields import (
    LAYOUTS,
    Layout,
    WriteChat,
    choose_layout,
    explain_misfit,
    write_turns,
)
from sequencematch.data.subword import SubwordTokenizer, read_tokenizer
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from sequencematch.storage import files

TASK, QUESTIONS, TOKENIZER = "task.json", "questions.jsonl", "tokenizer"
ASKED = ("test", "validation")  # the splits that are kept


def save_files(tokenizer: SubwordTokenizer, folder: Path) -> dict[str, Any]:
    """Writes the files of a tokenizer of subwords; task.json says no more of it."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(folder)
    return {}


class Kind(NamedTuple):
    """How one kind of tokenizer is kept.

    Attributes:
      type: its class.
      save: (tokenizer, folder) -> what task.json says of it; it may write files of its own there.
      load: (what task.json says, folder, names of the edits) -> the tokenizer.
    """

    type: type
    save: Callable[[Any, Path], dict[str, Any]]
    load: Callable[[dict[str, Any], Path, tuple[str, ...]], Tokenizer]


KINDS: dict[str, Kind] = {
    "characters": Kind(
        CharTokenizer,
        lambda tokenizer, folder: {"alphabet": "".join(sorted(set(tokenizer.alphabet)))},
        lambda facts, folder, edits: CharTokenizer(facts["alphabet"], edits),
    ),
    "bytes": Kind(
        ByteTokenizer,
        lambda tokenizer, folder: {},
        lambda facts, folder, edits: ByteTokenizer(edits),
    ),
    "subwords": Kind(
        SubwordTokenizer,
        lambda tokenizer, folder: save_files(tokenizer, folder / TOKENIZER),
        lambda facts, folder, edits: read_tokenizer(folder / TOKENIZER, edits),
    ),
}


class SavedTask(NamedTuple):
    """A task as a folder keeps it.

    Attributes:
      task: it has the test and the validation questions, and nothing to train on.
      checksum: of all examples that the run was trained on.
      facts: what else the pass over them found.
    """

    task: Task
    checksum: int
    facts: dict[str, Any]


def can_save(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is of one of the `KINDS`."""
    return any(type(tokenizer) is kind.type for kind in KINDS.values())


def is_saved(folder: Path) -> bool:
    """Whether a folder keeps a task."""
    return (folder / TASK).is_file()


def save(saved: SavedTask, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a task into a run's folder; task.json, which says that it is there, comes last.

    Raises:
      OSError: a file cannot be written.
    """
    task = saved.task
    name = next(name for name, kind in KINDS.items() if type(tokenizer) is kind.type)
    questions = "".join(
        json.dumps({"split": split} | example_record(task.splits[split][i])) + "\n"
        for split in ASKED
        for i in range(len(task.splits[split]))
    )
    record = {
        "name": task.name,
        "tokenizer": {"kind": name} | KINDS[name].save(tokenizer, folder),
        "fingerprint": tokenizer.fingerprint,
        "confusable": sorted(set(task.confusable(tokenizer))),
        "sizes": {split: len(examples) for split, examples in task.splits.items()},
        "questions": zlib.crc32(questions.encode()),
        "checksum": saved.checksum,
        "facts": saved.facts,
    }
    files.write(folder / QUESTIONS, questions)
    files.write(folder / TASK, json.dumps(record, indent=2) + "\n")


def load(folder: Path, judge: Judge, edits: tuple[str, ...]) -> SavedTask:
    """Reads the task in a run's folder.

    Args:
      folder: the run's folder.
      judge: how its answers are judged; code, so it is not kept.
      edits: names of the edits that the tokenizer has.

    Raises:
      ValueError: a file is damaged.
      OSError: a file cannot be read.
    """
    path, questions = folder / TASK, folder / QUESTIONS
    if not questions.is_file():
        raise ValueError(f"{questions} is missing: put it back")
    record = parse_object(path.read_bytes().decode(errors="replace"), path)
    text = questions.read_bytes().decode(errors="replace")
    try:
        facts = record["tokenizer"]
        kind = KINDS[facts["kind"]]
        tokenizer = kind.load(facts, folder, edits)
        confusable, name = [*map(int, record["confusable"])], str(record["name"])
        checksum, found = int(record["checksum"]), dict(record["facts"])
        is_sound = tokenizer.fingerprint == record["fingerprint"]
        is_sound &= {*confusable} <= {*tokenizer.ordinary}
        is_same_text = zlib.crc32(text.encode()) == record["questions"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    for sound, file in ((is_sound, path), (is_same_text, questions)):
        if not sound:
            raise ValueError(f"{file} is not what the run has saved: put it back")
    splits: dict[str, list[Example]] = {split: [] for split in ASKED}
    for record, example in _parse_questions(text, questions):
        splits[record["split"]].append(example)
    task = Task(
        name,
        splits,
        lambda edits: kind.load(facts, folder, edits),
        lambda tokenizer: confusable,
        **judge._asdict(),
    )
    return SavedTask(task, checksum, found)


def example_record(example: Example) -> dict[str, Any]:
    """An example as a line of questions has it; what is usual is left out."""
    record: dict[str, Any] = {"prompt": example.prompt, "completion": example.completion}
    if example.references != (example.completion,):
        record["references"] = example.references
    return record | ({"cut": True} if example.cut else {})


def read_questions(
    path: Path,
    fields: str = "prompt",
    write_chat: WriteChat = write_turns,
    joins_spaces: bool = False,
) -> list[Example]:
    """Reads a file of JSON lines, which may be compressed (.gz), as questions to be asked.

    All completions of a prompt are right answers to it, and so are a line's "references", if it has
    such a list. Each prompt is asked once.

    Args:
      path: the file.
      fields: how a line is laid out, a key of `LAYOUTS`; one that a run has kept is read in any case.
      write_chat: writes the prompts of chats.
      joins_spaces: whether prompts that differ by white space are one.

    Raises:
      ValueError: a line is damaged, or there is none; names file and line.
      OSError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path} cannot be read: {reason}") from error
    found: dict[str, Example] = {}
    for _, example in _parse_questions(text, path, choose_layout(fields, write_chat), fields):
        asked = " ".join(example.prompt.split()) if joins_spaces else example.prompt
        before = found.get(asked, example)
        right = [*before.references, before.completion, example.completion, *example.references]
        references = dict.fromkeys(right)
        found[asked] = Example(before.prompt, before.completion, tuple(references), before.cut)
    if not found:
        raise ValueError(f"{path} has no questions")
    return [*found.values()]


def _parse_questions(
    text: str, path: Path, layout: Layout = LAYOUTS["prompt"], fields: str = "prompt"
) -> Iterator[tuple[dict[str, Any], Example]]:
    """Yields (object, example) of each line that is not empty."""
    # Not splitlines: a JSON string may contain U+2028 and other characters that it splits at.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            # Files that were joined have a byte order mark in the middle.
            record = parse_object(line.removeprefix("\ufeff"), f"{path}:{number}")
            yield record, _parse_question(record, f"{path}:{number}", layout, fields)


def _parse_question(record: Mapping[str, Any], place: str, layout: Layout, fields: str) -> Example:
    references = record.get("references", [])
    try:
        texts = layout.read(record) or LAYOUTS["prompt"].read(record)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if texts is None:
        raise ValueError(f"{place}: {explain_misfit(record, fields)}")
    if not isinstance(references, list) or not _are_texts([*texts, *references]):
        raise ValueError(f'{place}: "references" must be a list of texts, and all texts UTF-8')
    return Example(*texts, tuple(references), record.get("cut") is True)


def _are_texts(values: Iterable[Any]) -> bool:
    try:
        return all(isinstance(value, str) and value.encode() is not None for value in values)
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which is no text
        return False


def parse_object(text: str, place: object, expected: str = "an object") -> dict[str, Any]:
    """Parses a JSON object; `expected` says in messages what it should be.

    Raises:
      ValueError: it is none; names the place.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested too deeply
        raise ValueError(f"{place} is not JSON, expected {expected}: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place} is no JSON object")
    return record
