"""Arithmetic questions by DeepMind's generator, prepared once with tensorflow-datasets.

They are stored in `<data.dir>/mathematics/<parameters>/1.0.0`.
"""

import difflib
import importlib.util
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from sequencematch.data import prepared
from sequencematch.data.mathematics import Questions, check, distinct_questions, twin_key
from sequencematch.data.prepared import Sizes, characters
from sequencematch.data.splits import SPLITS, keep_split
from sequencematch.data.task import Task, character_task
from sequencematch.storage.files import expand

PUBLISHED = "math_dataset"  # its name in tensorflow-datasets
_PUBLISHED_FIELDS = ("question", "answer")
_DIGITS = "0123456789abcdef"  # as mathematics_dataset writes them


class Mathematics(prepared.Texts, skip_registration=True):
    """Disjoint splits of one stream of distinct questions, divided as `SPLITS` says."""


def task(data: Any) -> Task:
    """Returns the arithmetic task; the first call with these parameters prepares its files.

    Args:
      data: has `dir`, `source` ("generator", or "tfds" for tensorflow-datasets' `math_dataset`),
        `module`, `bases`, `entropy`, `seed`, the sizes `train`, `validation`, `test`, and `split`:
        "twins" (questions about the same numbers are in one split, base by base: with several, see
        `mathematics.are_in_other_bases`), or "prompt" (no prompt is in two).

    Raises:
      ValueError: the parameters are impossible, or there are too few questions.
      OSError: the prepared files are damaged.
    """
    if data.source not in SOURCES:
        raise ValueError(f"data.source={data.source!r}: allowed are {', '.join(SOURCES)}")
    if data.split not in SPLITS:
        raise ValueError(f"data.split={data.split!r}: allowed are {', '.join(SPLITS)}")
    sizes = _sizes(data)
    if min(sizes) < 1:
        raise ValueError(f"data.test, data.validation, data.train={tuple(sizes)}: allowed are >= 1")
    return SOURCES[data.source].open(data)


def is_prepared(data: Any) -> bool:
    """Whether the files that `task` would open are there already."""
    return _folder(data).is_dir()


def generator_task(data: Any) -> Task:
    """Returns questions of the PyPI package `mathematics_dataset`, a few thousand a second."""
    questions = _questions(data)
    builder = prepared.open_or_prepare(
        lambda: Mathematics(data_dir=_root(data), config=_config(data)),
        folder=_folder(data),
        check=lambda: check(questions),
    )
    splits, prompts, completions = prepared.read_texts(builder)
    confusable = _confusable_characters(questions.bases, completions)
    # A small set may lack a digit, which noise may push.
    return character_task(
        data.module, characters(prompts, completions, confusable), splits, confusable
    )


def published_task(data: Any) -> Task:
    """Returns the questions that DeepMind published, from tensorflow-datasets' `math_dataset`.

    They have every base and the published entropies, and we remove no duplicates. Downloading needs
    a network. Preparing needs TensorFlow, which that builder uses; reading does not. No test of ours
    has downloaded or prepared them.
    """
    if data.bases:
        raise ValueError("data.source='tfds' has questions in every base: set data.bases to ()")
    _check_published(data.module)
    builder = prepared.open_or_prepare(
        lambda: tfds.builder(f"{PUBLISHED}/{data.module}", data_dir=_root(data)),
        folder=_folder(data),
        check=_check_tensorflow,
    )
    splits = PUBLISHED_SPLITS[data.split](builder, data)
    examples = list(itertools.chain.from_iterable(splits.values()))
    completions = characters(*(example.completion for example in examples))
    return character_task(
        data.module,
        characters(completions, *(example.prompt for example in examples)),
        splits,
        _confusable_characters((), completions),
    )


def _published_stretches(builder: tfds.core.DatasetBuilder, data: Any) -> dict[str, Sequence]:
    """Splits as they are published; our validation split is the head of the train split."""
    sizes = _sizes(data)
    slices = {
        "test": f"test[:{sizes.test}]",
        "validation": f"train[:{sizes.validation}]",
        "train": f"train[{sizes.validation}:{sizes.validation + sizes.train}]",
    }
    return {
        name: prepared.read_split(builder, part, *_PUBLISHED_FIELDS)
        for name, part in slices.items()
    }


def _published_twins(builder: tfds.core.DatasetBuilder, data: Any) -> dict[str, Sequence]:
    """The first questions of each split whose twins belong to that split."""
    published = {
        name: prepared.read_split(builder, name, *_PUBLISHED_FIELDS) for name in ("test", "train")
    }
    splits = {}
    for name, size in _sizes(data)._asdict().items():
        examples = published["test" if name == "test" else "train"]
        stream = keep_split(examples, name, data.seed, twin_key)
        splits[name] = list(itertools.islice(stream, size))
        if len(splits[name]) < size:
            raise ValueError(
                f"data.{name}={size}: {PUBLISHED} has only {len(splits[name])} questions for it"
            )
    return splits


PUBLISHED_SPLITS = {"twins": _published_twins, "prompt": _published_stretches}


class Source(NamedTuple):
    """Where questions come from.

    Attributes:
      open: the `data` section -> the task, prepared if need be.
      folder: the `data` section -> the folder of its files in `data.dir`, without the version.
    """

    open: Callable[[Any], Task]
    folder: Callable[[Any], pathlib.Path]


SOURCES = {
    "generator": Source(
        generator_task, lambda data: pathlib.Path(Mathematics.name, _config(data).name)
    ),
    "tfds": Source(published_task, lambda data: pathlib.Path(PUBLISHED, data.module)),
}


def _root(data: Any) -> pathlib.Path:
    return expand(data.dir)


def _folder(data: Any) -> pathlib.Path:
    return _root(data) / SOURCES[data.source].folder(data) / str(Mathematics.VERSION)


def _sizes(data: Any) -> Sizes:
    return Sizes(data.test, data.validation, data.train)


def _questions(data: Any) -> Questions:
    bases, entropy = tuple(sorted(set(data.bases))), tuple(map(float, data.entropy))
    return Questions(data.module, bases, entropy, data.seed)


def _config(data: Any) -> prepared.TextsConfig:
    questions, sizes = _questions(data), _sizes(data)
    bases, entropy = questions.bases, questions.entropy
    # All parameters that decide the content are in the name: different ones never share a folder.
    parts = [
        questions.module,
        "base" + "_".join(map(str, bases)) if bases else "anybase",
        "entropy" + "to".join(map(str, entropy)),
        f"seed{questions.seed}",
        *(f"{split}{size}" for split, size in sizes._asdict().items()),
        # Data from before there was a choice have no word for it.
        *([data.split] if data.split != "prompt" else []),
    ]

    def streams():
        return SPLITS[data.split](distinct_questions(questions), questions.seed, twin_key)

    return prepared.TextsConfig(name="-".join(parts), streams=streams, sizes=sizes)


def _check_published(module: str) -> None:
    """Refuses a module that tfds has no code for.

    For such a name tfds would look for prepared files, and run whatever code these ask for.
    """
    modules = tfds.builder_cls("math_dataset").builder_configs
    if module not in modules:
        near = difflib.get_close_matches(module, modules, n=1, cutoff=0)[0]
        raise ValueError(f"data.module={module!r} does not exist: did you mean {near!r}?")


def _check_tensorflow() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            "data.source='tfds' needs TensorFlow when it is first prepared: install it for that "
            "once, or use data.source='generator'"
        )


def _confusable_characters(bases: tuple[int, ...], completions: str) -> str:
    if bases:
        return _DIGITS[: max(bases)]
    # Only letters and digits, so that noise looks like a wrong digit, as it does with bases.
    return "".join(filter(str.isalnum, completions))
