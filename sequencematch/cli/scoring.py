"""--mode=score: metrics of text files, of any system."""

import difflib
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sequencematch.cli.job import Job
from sequencematch.data.saved import parse_object
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import EDITS
from sequencematch.evaluate import records
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.mauve import MODEL_METRICS, check_mauve
from sequencematch.evaluate.metrics import METRICS, figure_intervals, measure
from sequencematch.evaluate.reference import Reference
from sequencematch.evaluate.report import write_report
from sequencematch.storage.console import ignore_write_failures
from sequencematch.storage.files import expand, write

# Those that compare with real texts.
NEED_REFERENCES = {"overlap", "bleu", "rouge", *MODEL_METRICS}
# Accuracy has an interval of its own; that of Self-BLEU would take twenty times as long.
WITHOUT_INTERVALS = {"accuracy", "self_bleu"}


def prepare_scores(
    files: str, metrics: str, reference: str | None, folder: Path | None = None
) -> Job:
    """Reads the files; the job prints a line of JSON for each, with its figures.

    With the folder of a run the lines are added to its scores.jsonl too, and shown in its report.

    Args:
      files: paths of JSON lines, joined by commas.
      metrics: keys of `METRICS` and `MODEL_METRICS`, joined by commas.
      reference: directory of another model; None where no metric needs one.
      folder: of a run; None for none.

    Raises:
      ValueError, OSError: there is no such metric, a file cannot be read or lacks what one needs, or
        the model is not there.
    """
    names = check_names(metrics.split(","), reference)
    if folder and not (folder / "summary.json").is_file():
        raise ValueError(
            f"--workdir={folder} has no summary.json: name the folder of a run that has ended, to have "
            "the scores in its report, or leave it out"
        )
    if folder:
        records.read(folder)  # what is damaged there is told before any work
    contents = {path: read_file(path) for path in map(str.strip, files.split(","))}
    texts = {path: read_answers(path, content, names) for path, content in contents.items()}
    for path, answers in texts.items():
        check_measurable(path, answers, names)
    model = open_reference(reference) if reference else None
    if model:
        for path, answers in texts.items():
            check_readable(path, answers, model)

    def show() -> None:
        for path, answers in texts.items():
            # So that figures of another content are not shown as of this one.
            head = {"file": path, "checksum": f"{zlib.crc32(contents[path]):08x}"}
            found = head | {"texts": len(answers)} | score(answers, names, model)
            with ignore_write_failures(sys.stdout):
                print(json.dumps(found), flush=True)
            if folder:
                keep(found, folder)

    return Job(show)


def keep(found: Mapping[str, Any], folder: Path) -> None:
    """Adds a line to scores.jsonl of a run, and makes its report anew."""
    path = folder / "scores.jsonl"
    # What is damaged is counted in the report; the new line is one of its own in any case.
    before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    between = "" if before.endswith("\n") or not before else "\n"
    write(path, before + between + json.dumps(found) + "\n")
    write_report(folder)


def open_reference(path: str) -> Reference:
    """The model that reads the texts.

    Raises:
      ValueError: it is not there, or cannot be read.
    """
    try:
        return Reference(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"--reference: {error}") from error


def check_names(names: Sequence[str], reference: str | None) -> list[str]:
    """The names of metrics, without white space.

    Raises:
      ValueError: there is no such metric, or it needs another model, or none needs the one named.
    """
    names, known = [name.strip() for name in names], [*METRICS, *MODEL_METRICS]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise ValueError(
                f"--metrics: {name!r} is no metric: did you mean {near!r}? There are {', '.join(known)}"
            )
    wanting = [name for name in names if name in MODEL_METRICS]
    if bool(wanting) != bool(reference):
        raise ValueError(
            f"--metrics={wanting[0]} needs --reference=DIR, a model directory that reads the texts"
            if wanting
            else f"--reference={reference} is for the metrics {' and '.join(MODEL_METRICS)} only"
        )
    return names


def read_file(path: str) -> bytes:
    """The content of a file.

    Raises:
      ValueError, OSError: no file is named, or it cannot be read.
    """
    if not path:
        raise ValueError("--files: one of the names is empty: write A.jsonl,B.jsonl")
    try:
        return expand(path).read_bytes()
    except OSError as error:
        raise OSError(f"--files: {path} cannot be read: {error.strerror}") from error


def read_answers(path: str, content: bytes, names: Sequence[str]) -> list[Answer]:
    """The texts of a file, as answers.

    Each line has a "text"; a "prompt" that it follows; "references", a list, or "completion"; "right",
    if somebody has judged it; and "symbols", the actions that have made it, where they are known.

    Raises:
      ValueError: a line is damaged or lacks what a metric needs, or there is none; names them.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"--files: {path} is not UTF-8: byte {error.start}") from error
    found = [
        read_answer(parse_object(line, f"{path}:{n}", '{"text": "..."}'), f"{path}:{n}", names)
        for n, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise ValueError(f"--files: {path} has no texts")
    return found


def check_measurable(path: str, answers: Sequence[Answer], names: Sequence[str]) -> None:
    """Raises ValueError where a metric needs more texts, or a library that is not installed."""
    try:
        measure([METRICS[name] for name in names if name in METRICS], answers[:1])
        if "mauve" in names:
            check_mauve(len(answers))
        if "self_bleu" in names and len(answers) < 2:
            raise ValueError("self_bleu compares 2 texts or more with each other: there is 1")
    except ValueError as error:
        raise ValueError(f"--files: {path}: {error}") from error


def check_readable(path: str, answers: Sequence[Answer], model: Reference) -> None:
    """Raises ValueError at the first text that the model has no ids for."""
    for number, answer in enumerate(answers, 1):
        try:
            for text in (answer.text, answer.example.completion):
                model.encode((answer.example.prompt, text))
        except ValueError as error:
            raise ValueError(f"--files: {path}, text {number}: {error}") from error


def read_answer(record: Mapping[str, Any], place: str, names: Sequence[str]) -> Answer:
    """A line as an answer, which has what metrics of these names need."""
    needy = [name for name in names if name in NEED_REFERENCES]
    text, prompt = record.get("text"), record.get("prompt", "")
    references = record.get("references", [record.get("completion", None)])
    if not isinstance(text, str) or not isinstance(prompt, str):
        raise ValueError(
            f'{place}: expected {{"text": "..."}}, a "prompt" beside it where there is one'
        )
    are_texts = isinstance(references, list) and all(isinstance(x, str) for x in references)
    if needy and not (references and are_texts):
        raise ValueError(f'{place}: {needy[0]} needs "references", a list of real texts')
    if "accuracy" in names and not isinstance(record.get("right"), bool):
        raise ValueError(f'{place}: accuracy needs "right", true or false')
    symbols = record.get("symbols")
    are_symbols = isinstance(symbols, list) and all(isinstance(x, str) for x in symbols)
    if "edits" in names and not are_symbols:
        raise ValueError(
            f'{place}: edits needs "symbols", the actions of the text, as --mode=sample writes them'
        )
    real = tuple(references) if are_texts and references else (text,)
    example = Example(prompt, real[0], real)
    right, finished = record.get("right") is True, record.get("finished", True) is True
    edits = sum(symbol in EDITS for symbol in symbols) if are_symbols else None
    return Answer(example, [], text, right, finished, 0, edits)


def score(
    answers: Sequence[Answer], names: Sequence[str], model: Reference | None
) -> dict[str, Any]:
    """The figures of all metrics, in order, and their intervals over texts."""
    examples = [answer.example for answer in answers]
    found: dict[str, Any] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name in names:
        if name in MODEL_METRICS:
            figures = MODEL_METRICS[name](model, examples, answers)
            intervals |= figures.pop("intervals")
        else:
            figures = measure([METRICS[name]], answers)
            if name == "accuracy":  # a file does not say what an answer has cost
                intervals["accuracy"] = figures.pop("low"), figures.pop("high")
                del figures["length"]
            if name not in WITHOUT_INTERVALS:
                intervals |= figure_intervals([METRICS[name]], answers)
        found |= figures
    return found | ({"intervals": intervals} if intervals else {})
