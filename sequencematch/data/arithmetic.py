"""Arithmetic problems by DeepMind's generator, prepared once by tensorflow-datasets.

The questions live in `<data.dir>/mathematics/<parameters>/1.0.0` as array_record files and are read
by index. No TensorFlow is needed, nor imported.
"""

import contextlib
import dataclasses
import difflib
import fcntl
import importlib.util
import itertools
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import tensorflow_datasets as tfds
from absl import logging

from sequencematch import files
from sequencematch.data.questions import Questions, check, distinct, global_random_given_back
from sequencematch.data.task import Example, Task, exact

_T = TypeVar("_T")
_KEPT = 200_000  # some hundred bytes each
_DIGITS = "0123456789abcdef"  # as the package displays them


class Sizes(NamedTuple):
    """Numbers of questions, in the order in which they are taken from the stream.

    The test set comes first, so that it does not depend on how much there is to train on.
    """

    test: int
    validation: int
    train: int


@dataclasses.dataclass(eq=False, kw_only=True)
class MathematicsConfig(tfds.core.BuilderConfig):
    """One set of parameters; its name is the folder's."""

    questions: Questions
    sizes: Sizes


class Mathematics(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Disjoint sets of questions from one stream of distinct ones."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"prompt": tfds.features.Text(), "completion": tfds.features.Text()}
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        stream = distinct(self.builder_config.questions)
        sizes = self.builder_config.sizes._asdict()
        # tfds exhausts one generator after the other, in this order, so they can share the stream.
        return {split: self._generate_examples(stream, size) for split, size in sizes.items()}

    def _generate_examples(self, stream: Iterator[Example], size: int) -> Iterator:
        for key, example in enumerate(itertools.islice(stream, size)):
            features = example._asdict()
            for field, text in features.items():
                seen = self.info.metadata.get(field, "")
                self.info.metadata[field] = _characters(seen, text)
            yield key, features


@dataclasses.dataclass(frozen=True)
class Records(Sequence):
    """Examples read from prepared files when they are first asked for.

    Attributes:
      source: as tensorflow-datasets reads them, a dict of bytes each.
      fields: the names of prompt and completion there.
      folder: where the files lie, for the error message.
      kept: the examples read so far, up to `_KEPT` of them: reading one takes three times as long
        as everything else the pipeline does with it.
    """

    source: Sequence[dict[str, bytes]]
    fields: tuple[str, str]
    folder: pathlib.Path
    kept: dict[int, Example] = dataclasses.field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        if index in self.kept:
            return self.kept[index]
        example = _readable(self.folder, lambda: self._read(index))
        if len(self.kept) < _KEPT:
            self.kept[index] = example
        return example

    def _read(self, index: int) -> Example:
        record = self.source[index]
        return Example(*(record[field].decode() for field in self.fields))


def task(data: Any) -> Task:
    """The arithmetic task, prepared on the first call with these parameters, then only opened.

    Args:
      data: has `dir`, `source` ("generator", or "tfds" for tensorflow-datasets' `math_dataset`),
        `module`, `bases`, `entropy`, `seed` and the sizes `train`, `validation`, `test`.

    Raises:
      ValueError: the parameters are impossible, or there are too few questions.
      OSError: the prepared files are damaged.
    """
    if data.source not in SOURCES:
        raise ValueError(f"data.source={data.source!r}: allowed are {', '.join(SOURCES)}")
    sizes = Sizes(data.test, data.validation, data.train)
    if min(sizes) < 1:
        raise ValueError(f"data.test, data.validation, data.train={tuple(sizes)}: allowed are >= 1")
    return SOURCES[data.source](data, sizes)


def generated(data: Any, sizes: Sizes) -> Task:
    """Questions of the PyPI package `mathematics_dataset`, made at some thousands a second."""
    bases = tuple(sorted(set(data.bases)))
    questions = Questions(data.module, bases, tuple(map(float, data.entropy)), data.seed)
    config = _config(questions, sizes)
    builder = _prepared(
        lambda: Mathematics(data_dir=_root(data), config=config),
        folder=_root(data) / Mathematics.name / config.name / str(Mathematics.VERSION),
        check=lambda: check(questions),
    )
    prompts, completions = _readable(
        builder.data_path, lambda: [builder.info.metadata[field] for field in Example._fields]
    )
    return Task(
        name=data.module,
        alphabet=_characters(prompts, completions),
        splits={split: _records(builder, split, *Example._fields) for split in Sizes._fields},
        confusable=_confusable(bases, completions),
        check=exact,
    )


def published(data: Any, sizes: Sizes) -> Task:
    """The questions that DeepMind published, as tensorflow-datasets' `math_dataset` has them.

    They have every base and the published entropies, and were not deduplicated by us. Downloading
    needs network, and preparing needs TensorFlow, which that builder uses (reading does not): no
    test of ours has run this.
    """
    if data.bases:
        raise ValueError("data.source='tfds' has questions in every base: set data.bases to ()")
    name = f"math_dataset/{data.module}"
    builder = _prepared(
        lambda: tfds.builder(name, data_dir=_root(data)),
        folder=_root(data) / name / "1.0.0",
        check=lambda: _check_published(data.module),
    )
    validation_end = sizes.validation + sizes.train
    slices = {
        "test": f"test[:{sizes.test}]",
        "validation": f"train[:{sizes.validation}]",
        "train": f"train[{sizes.validation}:{validation_end}]",
    }
    splits = {name: _records(builder, part, "question", "answer") for name, part in slices.items()}
    examples = list(itertools.chain.from_iterable(splits.values()))
    completions = _characters(*(example.completion for example in examples))
    return Task(
        name=data.module,
        alphabet=_characters(completions, *(example.prompt for example in examples)),
        splits=splits,
        confusable=_confusable((), completions),
        check=exact,
    )


def kept(folder: str) -> bool:
    """Whether data were prepared in a folder before."""
    names = (Mathematics.name, "math_dataset")
    return any((pathlib.Path(folder).expanduser() / name).is_dir() for name in names)


SOURCES: dict[str, Callable[[Any, Sizes], Task]] = {"generator": generated, "tfds": published}


def _root(data: Any) -> pathlib.Path:
    return pathlib.Path(data.dir).expanduser()


def _config(questions: Questions, sizes: Sizes) -> MathematicsConfig:
    bases = "base" + "_".join(map(str, questions.bases)) if questions.bases else "anybase"
    entropy = "entropy" + "to".join(map(str, questions.entropy))
    amounts = [f"{split}{size}" for split, size in sizes._asdict().items()]
    parts = [questions.module, bases, entropy, f"seed{questions.seed}", *amounts]
    return MathematicsConfig(name="-".join(parts), questions=questions, sizes=sizes)


def _prepared(
    make: Callable[[], tfds.core.DatasetBuilder], folder: pathlib.Path, check: Callable[[], None]
) -> tfds.core.DatasetBuilder:
    """Returns a builder whose files exist in `folder`; `check` may object before they are made."""
    if not folder.exists():
        check()
        with _alone(folder.parent), global_random_given_back(), _quiet():
            if not folder.exists():
                make().download_and_prepare(file_format="array_record")
    with _quiet():
        return _readable(folder, make)


@contextlib.contextmanager
def _alone(parent: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time prepare data here; removes what a killed one left half made."""
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            files.say(f"another process prepares data in {parent}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        for half_made in parent.glob("incomplete.*"):
            shutil.rmtree(half_made)
        yield


def _check_published(module: str) -> None:
    modules = tfds.builder_cls("math_dataset").builder_configs
    if module not in modules:
        near = difflib.get_close_matches(module, modules, n=1, cutoff=0)[0]
        raise ValueError(f"data.module={module!r} does not exist: did you mean {near!r}?")
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            "data.source='tfds' needs TensorFlow when it is first prepared: install it for that, "
            "or use data.source='generator'"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops the warning that tfds gives for every configuration that is no class attribute."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _records(builder: tfds.core.DatasetBuilder, split: str, *fields: str) -> Records:
    source = _readable(builder.data_path, lambda: builder.as_data_source(split))
    return Records(source, fields, builder.data_path)


def _readable(folder: pathlib.Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except Exception as cause:
        raise OSError(
            f"the data in {folder} cannot be read ({type(cause).__name__}): delete this folder, "
            "and it will be made again"
        ) from cause


def _confusable(bases: tuple[int, ...], completions: str) -> str:
    if bases:
        return _DIGITS[: max(bases)]
    return "".join(filter(str.isalnum, completions))


def _characters(*texts: str) -> str:
    return "".join(sorted(set("".join(texts))))
