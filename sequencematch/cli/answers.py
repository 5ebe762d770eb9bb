"""--mode=sample with many prompts or samples: each answer is a line of JSON, printed or in a file."""

import contextlib
import io
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from flax import nnx
from rich.console import Console
from rich.progress import Progress

from sequencematch.cli import resume
from sequencematch.cli.job import Call, Job
from sequencematch.cli.prompts import read_prompts, user_prompt
from sequencematch.cli.workdir import to_json
from sequencematch.data.episodes import encode_prompt
from sequencematch.data.saved import parse_object
from sequencematch.data.task import Example
from sequencematch.evaluate.generate import Generator
from sequencematch.setup.build import Parts
from sequencematch.setup.defaults import flatten
from sequencematch.setup.examples import chats_of
from sequencematch.setup.judges import configured_decodings, make_generator
from sequencematch.storage.console import ignore_write_failures, to_stderr, to_stdout
from sequencematch.storage.files import expand
from sequencematch.storage.processes import agree, is_first, wait_for_all

# Keys and sections of the configuration that decide answers.
DECIDE = (
    *("seed", "method", "edits", "init"),
    *("model.", "objective.", "noise.", "rollout.", "optimizer.", "train."),
    *("evaluate.edit_", "evaluate.memory", "evaluate.stop_at", "evaluate.max_actions"),
)
SECONDS = 10  # between lines of progress where there is no terminal


class Request(NamedTuple):
    """What to answer, and how; None for what the command line does not say.

    Attributes:
      prompt, prompts, num: a prompt, a file of prompts, or a number of test questions.
      samples: answers drawn for each prompt; None for a greedy one.
      temperature: of drawn answers.
      out: file of the answers.
      decode: a name as of `parse_decoding`.
    """

    prompt: str | None = None
    prompts: str | None = None
    num: int | None = None
    samples: int | None = None
    temperature: float | None = None
    out: str | None = None
    decode: str | None = None

    @property
    def choice(self) -> str:
        """How to answer: as asked for, else drawn if there are samples or a temperature."""
        draws = self.samples is not None or self.temperature is not None
        return self.decode or ("sampled" if draws else "greedy")


def prepare_answers(parts: Parts, call: Call, request: Request, checkpoint: str) -> Job:
    """Restores a checkpoint; the job answers all prompts that the file has no answer to yet.

    Raises:
      ValueError, OSError: the run or a file cannot be opened, a prompt does not fit, or the file has
        answers to something else.
    """
    questions = find_questions(parts, request)
    for i, question in enumerate(questions):
        try:
            encode_prompt(parts.tokenizer, question.prompt, parts.config.prompt_slots)
        except ValueError as error:
            raise ValueError(f"prompt {i}: {error}") from error
    parts = configure(parts, request, len(questions) * (request.samples or 1))
    decodings = configured_decodings(parts, [request.choice])
    if request.choice not in decodings:
        raise ValueError(f"--decode={request.choice}: this run has no edits to mask")
    state = resume.restore(parts, call.folder, checkpoint).state
    temperature = decodings[request.choice].temperature or None
    how = {"step": int(state.step), "temperature": temperature, "decode": request.choice}
    how["settings"] = settings_checksum(parts)
    heads = [
        {"prompt": q.prompt, "sample": i} | how
        for q in questions
        for i in range(request.samples or 1)
    ]
    path = expand(request.out) if request.out else None
    done, size = count_answers(path, heads) if path else (0, 0)
    if not agree(done):
        raise ValueError(
            f"--out={path}: the hosts do not see the same file: name one that all of them share"
        )
    asked = [question for question in questions for _ in range(request.samples or 1)]

    def answer_all() -> None:
        generator, params = make_generator(parts, decodings), parts.whole(state.params)
        lines = answer(parts, generator, params, asked, heads, done, request)
        wait_for_all("counted")  # the first process cuts the file
        with open_output(path, size) as file, answer_progress(len(heads), done, file) as advance:
            for line in lines:
                call.stop_requests.raise_if_asked()
                with ignore_write_failures(file) if path is None else contextlib.nullcontext():
                    file.write(line)
                advance()
        if path:
            to_stdout(f"{len(heads)} answers in {path}")

    if path is None:
        return Job(answer_all)
    return Job(answer_all, "the same command goes on where it stopped")


def find_questions(parts: Parts, request: Request) -> Sequence[Example]:
    """The prompts to answer; only test questions have references.

    Raises:
      ValueError, OSError: there are not so many, or the file cannot be read.
    """
    write_chat = chats_of(parts.config, parts.tokenizer)
    if request.prompt is not None:
        return [without_answer(user_prompt(request.prompt, write_chat))]
    if request.prompts is not None:
        return [*map(without_answer, read_prompts(expand(request.prompts), write_chat))]
    test = parts.task.splits["test"]
    if request.num > len(test):
        raise ValueError(f"--num={request.num}: the run has only {len(test)} test questions")
    return [test[i] for i in range(request.num)]


def without_answer(prompt: str) -> Example:
    """A prompt without a right answer."""
    return Example(prompt, "")


def settings_checksum(parts: Parts) -> str:
    """A checksum of all that decides answers but how each is chosen: those of one file share it."""
    values = flatten(to_json(parts.config))
    decide = {key: x for key, x in values.items() if key.startswith(DECIDE)}
    decide["model.path"] = Path(decide["model.path"]).name  # its directory may have moved
    text = json.dumps(decide | {"data": parts.data.checksum}, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def configure(parts: Parts, request: Request, count: int) -> Parts:
    """The parts, to answer at the temperature asked for, and no more rows at once than there are."""
    config = parts.config.copy_and_resolve_references()
    config.evaluate.rows = min(count, config.evaluate.rows)
    if request.temperature is not None:
        config.evaluate.temperature = request.temperature
    return parts._replace(config=config)


def answer(
    parts: Parts,
    generator: Generator,
    params: nnx.State,
    asked: Sequence[Example],
    heads: Sequence[Mapping[str, Any]],
    done: int,
    request: Request,
) -> Iterator[str]:
    """Yields the line of each answer from number `done` on.

    Args:
      parts: the run.
      generator, params: the model.
      asked: the question of each answer.
      heads: what each line begins with.
      done: number of answers that are there already; each draws with its own number.
      request: how to answer.
    """
    prompts = [question.prompt for question in asked[done:]]
    all_actions = generator.actions(params, prompts, request.choice, first=done)
    for question, head, actions in zip(asked[done:], heads[done:], all_actions, strict=True):
        text, finished = generator.text(actions), generator.is_finished(actions)
        record = {**head, "text": text, "finished": finished}
        record["symbols"] = parts.tokenizer.symbols(actions)
        if request.num:
            record["references"] = question.references
            if not parts.task.is_open:  # where any text is right
                record["right"] = finished and bool(parts.task.check(question, text))
        yield json.dumps(record) + "\n"


def count_answers(path: Path, heads: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(Number of answers, bytes of their lines) in a file that is to be continued.

    A last line without its newline does not count, if a kill may have cut it short.

    Raises:
      ValueError: a line is no answer to what is asked now, or the file cannot be written.
    """
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--out={path} cannot be written: name a file in a folder of yours")
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    other = "answers something else than is asked now: name another file"
    for number, line in enumerate(lines):
        place = f"--out={path}:{number + 1}"
        record = parse_object(line.decode(errors="replace"), place)
        if number >= len(heads) or {key: record.get(key) for key in heads[0]} != heads[number]:
            raise ValueError(f"{place} {other}")
    due = json.dumps(heads[len(lines)])[:-1].encode() if len(lines) < len(heads) else b""
    if last and not (due and (due.startswith(last) or last.startswith(due))):
        raise ValueError(f"--out={path}:{len(lines) + 1} {other}")
    return len(lines), sum(len(line) + 1 for line in lines)


@contextlib.contextmanager
def open_output(path: Path | None, size: int) -> Iterator[TextIO]:
    """The file, cut to `size` bytes, to add whole lines to; stdout if there is no path.

    Of several processes the first writes.
    """
    if not is_first():
        yield io.StringIO()
        return
    if path is None:
        yield sys.stdout
        return
    with path.open("ab") as file:
        file.truncate(size)
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield file


@contextlib.contextmanager
def answer_progress(total: int, done: int, file: TextIO) -> Iterator[Any]:
    """Shows on stderr how many of `total` answers are there; yields what counts one more.

    In a terminal it is a live bar, elsewhere a line now and then. A bar is not shown where the answers
    themselves go to a terminal: they would share lines.
    """
    console, told, count = Console(stderr=True), time.monotonic(), done
    has_bar = is_first() and console.is_terminal and not file.isatty()
    bar = Progress(console=console, disable=not has_bar, transient=True)
    task = bar.add_task("answers", total=total, completed=done)

    def advance() -> None:
        nonlocal told, count
        count += 1
        bar.update(task, completed=count)
        if is_first() and not console.is_terminal and time.monotonic() - told > SECONDS:
            told = time.monotonic()
            to_stderr(f"{count} of {total} answers")

    with bar:
        yield advance
