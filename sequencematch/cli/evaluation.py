"""--mode=evaluate: evaluates a run again, also another checkpoint or on other questions."""

import json
from pathlib import Path
from typing import Any

from sequencematch.cli import results, resume, workdir
from sequencematch.cli.job import Call, Job
from sequencematch.cli.training import count_tokens
from sequencematch.data.saved import read_questions
from sequencematch.setup.build import Parts, make_plan
from sequencematch.setup.examples import chat_writer, check_questions, check_room
from sequencematch.storage.files import expand


def prepare_evaluation(parts: Parts, call: Call) -> Job:
    """Restores the newest checkpoint; the job evaluates it and writes the results again.

    The facts of training in the summary come from the checkpoint and the old summary, not from here:
    another machine or version may evaluate a run than the one that trained it.

    Raises:
      ValueError, OSError: the run cannot be opened, or its summary is damaged or of a later step.
    """
    folder, raise_if_asked = call.folder, call.stop_requests.raise_if_asked
    check_room(parts.config, parts.tokenizer, [*parts.task.splits["test"]])
    call.resources.enter_context(workdir.lock(folder))
    state, saved, _ = resume.restore(parts, folder)
    facts = {key: saved[key] for key in resume.PROVENANCE} | count_tokens(make_plan(parts), state)
    facts |= {"seconds": {"train": saved["seconds"]}}
    # The old summary also knows the command, and its seconds include the last validation.
    facts |= read_summary(folder / "summary.json", int(state.step))
    return Job(lambda: results.evaluate_and_report(parts, folder, state, facts, raise_if_asked))


def prepare_evaluation_apart(parts: Parts, call: Call, data: str | None, checkpoint: str) -> Job:
    """Restores a checkpoint; the job writes its results into a file of their own.

    The summary, the traces and the report stay those of the newest checkpoint and the test set.

    Args:
      parts: the parts of the run.
      call: what the command line asked for.
      data: file of the questions; None for the test set.
      checkpoint: the one to evaluate, as of `resume.restore`.

    Raises:
      ValueError, OSError: the run cannot be opened, or the file has questions that cannot be asked.
    """
    if data is not None:
        path, fields = expand(data), parts.config.data.fields
        # There prompts that differ by white space are one.
        joins_spaces = parts.config.task == "jsonl"
        questions = read_questions(path, fields, chat_writer(parts.tokenizer), joins_spaces)
        check_questions(parts.config, parts.task, parts.tokenizer, questions, f"{data}, ")
        splits = {**parts.task.splits, "test": questions}
        parts = parts._replace(task=parts.task._replace(splits=splits))
    source = "" if data is None else f"{data}, "
    check_room(parts.config, parts.tokenizer, [*parts.task.splits["test"]], source)
    state = resume.restore(parts, call.folder, checkpoint).state
    words = [
        "evaluation",
        *([Path(data.removesuffix(".gz")).stem] if data else []),
        str(int(state.step)),
    ]
    asked = str(expand(data).absolute()) if data else None
    path, facts = call.folder / f"{'-'.join(words)}.json", {"data": asked, "command": call.command}
    check_own(path, asked)
    raise_if_asked = call.stop_requests.raise_if_asked
    return Job(lambda: results.evaluate_apart(parts, path, state, facts, raise_if_asked))


def check_own(path: Path, data: str | None) -> None:
    """Raises ValueError if a file has the results of other questions, whose file has the same name."""
    try:
        theirs = json.loads(path.read_text()).get("data")
    except (OSError, ValueError, AttributeError):
        return  # it is not there, or damaged
    if theirs != data:
        raise ValueError(f"{path} has the results of {theirs}: move it away, or rename {data}")


def read_summary(path: Path, step: int) -> dict[str, Any]:
    """Command, time and speed of training in the summary of a step; empty if there is none of it.

    Raises:
      ValueError: the summary is damaged, or is of a later step and would be overwritten.
    """
    if not path.is_file():
        return {}
    try:
        summary = json.loads(path.read_text())
        evaluated, command = int(summary["steps"]), summary["command"]
        seconds = float(summary["seconds"]["train"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to evaluate the run") from error
    if evaluated > step:
        raise ValueError(
            f"{path} is of step {evaluated}, but the newest sound checkpoint is of step {step}: "
            "continue with --resume, or remove the summary to evaluate that checkpoint"
        )
    if evaluated != step:
        return {}
    speed = {"speed": summary["speed"]} if "speed" in summary else {}
    return {"command": command, "seconds": {"train": seconds}, **speed}
