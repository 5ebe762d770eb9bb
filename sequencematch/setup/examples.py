"""The examples of a run: from the data, or as the run's folder keeps them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from sequencematch.data import saved
from sequencematch.data.checks import (
    DataFacts,
    Room,
    check_examples,
    longest_examples,
    needed_room,
)
from sequencematch.data.episodes import answer_ids, clean_ids, encode_prompt
from sequencematch.data.fields import WriteChat, write_turns
from sequencematch.data.noise import Noise
from sequencematch.data.subword import read_tokenizer
from sequencematch.data.survey import survey_examples
from sequencematch.data.task import Example, Task
from sequencematch.data.tasks import JUDGES, load_task
from sequencematch.data.tokenizer import Tokenizer, quote
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import has_edits


def load_data(config: ConfigDict) -> tuple[Task, Tokenizer, DataFacts]:
    """Loads the examples of a configuration, and checks that they fit.

    Sizes of the configuration that are 0 are set to what the examples take.

    Raises:
      ValueError, OSError: they do not fit, or cannot be made or read.
    """
    write_chat = (
        chat_writer(read_tokenizer(config.model.path, ())) if config.model.path else write_turns
    )
    task = load_task(config.task, task_data(config), write_chat)
    if config.model.path:
        task = task._replace(tokenizer=partial(read_tokenizer, config.model.path))
    tokenizer = task.tokenizer(tuple(config.edits))
    noise, cut = training_noise(config), config.noise.max_cut
    kept_with = configured_noise(config) if config.data.long == "drop" else None
    surveys, room = survey_examples(task, tokenizer), make_room(config)
    if not all(room.sizes.values()):
        room = needed_room(task, surveys, tokenizer, room, kept_with or noise, cut)
        _set_sizes(config, room, longest_examples(task, surveys))
    data = check_examples(task, surveys, tokenizer, room, noise, cut, kept_with)
    return task._replace(splits=data.splits), tokenizer, data


def _set_sizes(config: ConfigDict, room: Room, longest: str) -> None:
    """Writes sizes down: a run keeps them, and so does its config.json.

    Raises:
      ValueError: the network has fewer positions.
    """
    config.prompt_slots, config.max_actions, config.evaluate.max_actions = room.sizes.values()
    try:
        check_config(config)
    except ValueError as error:
        raise ValueError(
            f"{error}. {longest}. Set these sizes to what the network has room for; then "
            "--config.data.long=drop leaves out what does not fit"
        ) from error


def task_data(config: ConfigDict) -> ConfigDict:
    """The section `data`, with the tokenizer of the model that a run begins with, if it does."""
    data = config.data.copy_and_resolve_references()
    data.tokenizer = config.model.path or data.tokenizer  # text is cut into windows of its tokens
    return data


def chat_writer(tokenizer: Tokenizer) -> WriteChat:
    """What writes the prompts of chats: the model's template; without one a line for each turn."""
    has_template = getattr(tokenizer, "template", None) is not None
    return tokenizer.chat_prompt if has_template else write_turns


def chats_of(config: ConfigDict, tokenizer: Tokenizer) -> WriteChat | None:
    """What writes the prompts of a run that learns from chats; None of another run."""
    learns = config.task == "jsonl" and config.data.fields == "messages"
    return chat_writer(tokenizer) if learns else None


def make_room(config: ConfigDict) -> Room:
    """What examples must fit into."""
    # A slip is one wrong token and the edit that takes it back. What is dropped is so for all methods.
    slip = 2 if has_edits(config) or config.data.long == "drop" else 0
    sizes = (config.prompt_slots, config.max_actions, config.evaluate.max_actions)
    return Room(*sizes, slip, config.evaluate.stop_at)


def training_noise(config: ConfigDict) -> Noise:
    """The noise of the training texts; none for methods that cannot take a token back."""
    noise = configured_noise(config)
    return noise if has_edits(config) else noise._replace(kind="none")


def configured_noise(config: ConfigDict) -> Noise:
    """The noise of methods with edits."""
    noise = config.noise
    kind = noise.kind if config.edits else "none"
    return Noise(kind, noise.eta, noise.run, noise.step)


def load_saved(config: ConfigDict, folder: Path) -> tuple[Task, Tokenizer, DataFacts]:
    """Reads the task that a run's folder keeps; it has questions to ask, and nothing to train on.

    Raises:
      ValueError, OSError: a file is damaged or cannot be read, or a question does not fit.
    """
    edits = tuple(config.edits)
    kept = saved.load(folder, JUDGES[config.task](config.data), edits)
    tokenizer = kept.task.tokenizer(edits)
    for examples in kept.task.splits.values():
        check_questions(config, kept.task, tokenizer, examples)
    return kept.task, tokenizer, DataFacts(kept.checksum, kept.task.splits, kept.facts, 0)


def check_questions(
    config: ConfigDict,
    task: Task,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    source: str = "",
) -> None:
    """Checks that questions can be asked and judged.

    Args:
      config: the configuration.
      task: judges the answers.
      tokenizer: encodes them.
      examples: the questions.
      source: what to call the file that they come from.

    Raises:
      ValueError: one cannot; says which.
    """
    for i, example in enumerate(examples):
        try:
            encode_prompt(tokenizer, example.prompt, config.prompt_slots)
            clean_ids(tokenizer, example)
            is_compared = task.possible is None and not task.is_open
            for text in example.references if is_compared else ():
                answer_ids(tokenizer, example.prompt, text)
        except ValueError as error:
            raise ValueError(f"{source}question {i}: {error}") from error
        if fault := _judging_fault(task, example):
            raise ValueError(
                f"{source}question {i}, {quote(example.prompt)}, is none of the task {task.name}: its "
                f"answers cannot be judged ({fault})"
            )


def check_room(
    config: ConfigDict, tokenizer: Tokenizer, examples: Sequence[Example], source: str = ""
) -> None:
    """Checks that the completions of questions fit into an answer, or none could be right.

    Args, Raises: as of `check_questions`.
    """
    limit = config.evaluate.max_actions
    for i, example in enumerate(examples):
        if (needed := len(clean_ids(tokenizer, example))) > limit:
            raise ValueError(
                f"config.evaluate.max_actions={limit} is too small: {source}question {i}, "
                f"{quote(example.prompt)}, needs {needed}"
            )


def _judging_fault(task: Task, example: Example) -> str:
    """How a task fails to judge answers to a question that is none of its own; "" if it does not."""
    try:
        task.check(example, "")
        if task.possible:
            task.possible(example, "")
    except Exception as cause:  # the rules of some task, or of your own
        return f"{type(cause).__name__}: {cause}"
    return ""


def keeps_task(config: ConfigDict, folder: Path) -> bool:
    """Whether the folder of a run keeps its task, so that answers need nothing else."""
    return config.task in JUDGES and saved.is_saved(folder)


def save_task(
    config: ConfigDict, task: Task, tokenizer: Tokenizer, data: DataFacts, folder: Path
) -> None:
    """Keeps the task in the folder of a run; one of your own needs its code, and is not kept.

    Raises:
      OSError: a file cannot be written.
    """
    if config.task in JUDGES and saved.can_save(tokenizer):
        saved.save(saved.SavedTask(task, data.checksum, dict(data.found)), tokenizer, folder)
