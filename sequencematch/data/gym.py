"""Data sets of the PyPI package reasoning-gym, with prompts and answers that a small network can read.

How their entries become examples is in `gym_sets`. The examples are stored in
`<data.dir>/gym/<parameters>/<version>`: some of the generators take a fifth of a second for a question.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from sequencematch.data import prepared
from sequencematch.data.checkers import Judge
from sequencematch.data.gym_sets import DATA_SETS, REFUSED
from sequencematch.data.prepared import Sizes, characters
from sequencematch.data.splits import SPLITS, distinct
from sequencematch.data.task import Example, Task, character_task
from sequencematch.storage import console
from sequencematch.storage.files import expand

_STRETCH = 20_000  # entries of one object of the package; one of its generators takes no more


class Gym(prepared.Texts, skip_registration=True):
    """Disjoint splits of the distinct questions of one data set."""

    VERSION = tfds.core.Version("1.0.2")


def task(name: str, data: Any) -> Task:
    """Returns one data set as a task; the first call with these parameters prepares its files.

    Args:
      name: a key of `DATA_SETS`, or of `REFUSED`.
      data: has `dir`, `seed`, the sizes `train`, `validation`, `test`, and `split`: "twins" (questions
        about the same numbers, words or solutions are in one split), or "prompt".

    Raises:
      ValueError: the data set is refused, the package is missing, or there are too few questions.
      OSError: the prepared files are damaged.
    """
    _check(name)
    builder = prepared.open_or_prepare(
        lambda: Gym(data_dir=str(_root(data)), config=_config(name, data)),
        folder=_folder(name, data),
        check=lambda: console.to_stderr(
            f"preparing the questions of gym/{name}, once: this may take minutes"
        ),
    )
    splits, prompts, completions = prepared.read_texts(builder)
    alphabet, rules = characters(prompts, completions), judge(name, data)._asdict()
    return character_task(f"gym/{name}", alphabet, splits, completions, **rules)


def judge(name: str, data: Any) -> Judge:
    """How answers to a data set are judged; the package is needed, but no question of it.

    Raises:
      ValueError: the data set is refused, or the package is missing.
    """
    del data
    _check(name)
    return Judge(**DATA_SETS[name].rules(_source(name, 0)))


def is_prepared(name: str, data: Any) -> bool:
    """Whether the files that `task` would open are there already.

    Raises:
      ValueError: the package is missing.
    """
    _check(name)
    return _folder(name, data).is_dir()


def examples(name: str, seed: int) -> Iterator[Example]:
    """Yields the examples of a data set without end: entry i of the package, for i = 0, 1, ...

    Its entry i of seed s is entry i - 1 of seed s + 1. So there is one seed of the package for all
    splits, and our seeds are hashed: else nearby ones would give nearly the same questions.
    """
    digest = hashlib.sha256(f"gym/{seed}".encode()).digest()
    first = int.from_bytes(digest[:4], "big") // 2
    for stretch in itertools.count(first, _STRETCH):
        source = _source(name, stretch)
        for index in range(_STRETCH):
            yield _example(name, source, source[index])


def _example(name: str, source: Any, entry: Mapping[str, Any]) -> Example:
    row, m = DATA_SETS[name], {**entry["metadata"], "answer": entry["answer"], "source": source}
    try:
        return Example(row.prompt(m), row.answer(m))
    except KeyError as cause:
        raise ValueError(
            f"task='gym/{name}': this version of reasoning-gym tells no {cause} of its entries: "
            "pip install reasoning-gym==0.1.25"
        ) from cause


def _source(name: str, seed: int) -> Any:
    """The package's object: entries by index."""
    package = importlib.import_module("reasoning_gym")
    return package.create_dataset(name, seed=seed, size=_STRETCH, **DATA_SETS[name].options)


def _check(name: str) -> None:
    if name in REFUSED:
        raise ValueError(f"task='gym/{name}' {REFUSED[name]}: choose one of {', '.join(DATA_SETS)}")
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ValueError(f"task='gym/{name}' needs reasoning-gym: pip install 'sequencematch[gym]'")


def _config(name: str, data: Any) -> prepared.TextsConfig:
    def streams():
        stream = distinct(examples(name, data.seed), f"gym/{name}")
        return SPLITS[data.split](stream, data.seed, DATA_SETS[name].twin_key)

    folder = _folder(name, data).parent.name
    return prepared.TextsConfig(name=folder, streams=streams, sizes=_sizes(data))


def _folder(name: str, data: Any) -> pathlib.Path:
    # All that decides the content: another version of the package may make other questions. Whoever
    # changes a row of DATA_SETS changes `VERSION`.
    sizes = [f"{split}{size}" for split, size in _sizes(data)._asdict().items()]
    version = importlib.metadata.version("reasoning-gym")
    parts = [name, version, f"seed{data.seed}", *sizes, data.split]
    return _root(data) / Gym.name / "-".join(parts) / str(Gym.VERSION)


def _root(data: Any) -> pathlib.Path:
    return expand(data.dir)


def _sizes(data: Any) -> Sizes:
    return Sizes(data.test, data.validation, data.train)
