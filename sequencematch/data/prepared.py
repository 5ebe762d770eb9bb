"""Data sets that tensorflow-datasets prepares once and that are then read by index.

They are array_record files. TensorFlow is neither needed nor imported.
"""

import contextlib
import dataclasses
import fcntl
import io
import itertools
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import tensorflow_datasets as tfds
from absl import logging

from sequencematch.data.mathematics import preserve_global_random
from sequencematch.data.task import Example, example_bytes
from sequencematch.storage import console, files

FIELDS = ("prompt", "completion")  # of `Texts`
_T = TypeVar("_T")
CACHE_SIZE = 200_000  # examples, of a few hundred bytes each


class Sizes(NamedTuple):
    """Numbers of questions, in the order in which they are taken from the stream.

    The test set comes first, so that it does not depend on the size of the training set, even where
    the splits are stretches of one stream.
    """

    test: int
    validation: int
    train: int


@dataclasses.dataclass(eq=False, kw_only=True)
class TextsConfig(tfds.core.BuilderConfig):
    """What is prepared; its name, which has all that decides this, is the name of the folder.

    Attributes:
      streams: -> the examples of each split, or of all splits one after another.
      sizes: how many of them each split gets.
    """

    streams: Callable[[], Mapping[str, Iterator[Example]]]
    sizes: Sizes


class Texts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prompts and completions. The name of a subclass is the name of its folder."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(dict.fromkeys(FIELDS, tfds.features.Text())),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # the pipeline shuffles
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        streams = self.builder_config.streams()
        # tfds exhausts one generator after the other, in this order, so they can share a stream.
        return {
            split: self._generate_examples(streams[split], size)
            for split, size in self.builder_config.sizes._asdict().items()
        }

    def _generate_examples(self, stream: Iterator[Example], size: int) -> Iterator:
        for key, example in enumerate(itertools.islice(stream, size)):
            features = {field: getattr(example, field) for field in FIELDS}
            for field, text in features.items():
                # The alphabet is stored with the data, so that opening it need not read all texts.
                seen = self.info.metadata.get(field, "")
                self.info.metadata[field] = characters(seen, text)
            yield key, features


def characters(*texts: str) -> str:
    """Returns the characters that texts are made of, each once."""
    return "".join(sorted(set("".join(texts))))


@dataclasses.dataclass(frozen=True)
class Records(Sequence):
    """The examples of a split, each read from its file on first use.

    Attributes:
      source: records as tensorflow-datasets reads them, each a dict of bytes.
      fields: the names of prompt and completion in a record.
      folder: where the files are, for error messages.
      cache: the examples read so far, by index, up to `CACHE_SIZE` of them.
    """

    source: Sequence[dict[str, bytes]]
    fields: tuple[str, str]
    folder: pathlib.Path
    # Reading an example takes three times as long as all that the pipeline does with it.
    cache: dict[int, Example] = dataclasses.field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]  # negative indices, and IndexError
        if index in self.cache:
            return self.cache[index]
        example = read_or_explain(self.folder, lambda: self._read(index))
        if len(self.cache) < CACHE_SIZE:
            self.cache[index] = example
        return example

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the cache keeps."""
        return sum(map(example_bytes, self.cache.values()))

    def _read(self, index: int) -> Example:
        record = self.source[index]
        return Example(*(record[field].decode() for field in self.fields))


def open_or_prepare(
    make: Callable[[], tfds.core.DatasetBuilder], folder: pathlib.Path, check: Callable[[], None]
) -> tfds.core.DatasetBuilder:
    """Returns a builder whose files are in `folder`, and prepares them if they are not there.

    Args:
      make: makes the builder.
      folder: the builder's data_path.
      check: called before anything is prepared; raises ValueError if the parameters are wrong.

    Raises:
      OSError: the files cannot be written or read.
    """
    if not folder.exists():
        check()
        with lock_folder(folder.parent), preserve_global_random(), silence(logging.ERROR):
            # Again: another process may have prepared them while this one waited for the lock.
            if not folder.exists():
                _prepare(folder, make())
    # tfds warns that a configuration is not an attribute of its builder's class.
    with silence(logging.ERROR):
        return read_or_explain(folder, make)


def _prepare(folder: pathlib.Path, builder: tfds.core.DatasetBuilder) -> None:
    console.to_stdout(f"preparing the data in {folder}, once")
    # tfds prints the sizes of a download, which are unknown; its bars are for a terminal.
    tfds.display_progress_bar(sys.stderr.isatty())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="array_record")
    except RuntimeError as cause:
        # array_record raises a bare RuntimeError when the disk is full; subclasses are other faults.
        if type(cause) is RuntimeError:
            raise OSError(f"the data cannot be written to {folder} ({cause})") from cause
        raise


def read_split(builder: tfds.core.DatasetBuilder, split: str, *fields: str) -> Records:
    """Returns the examples of a split; `fields` names their prompt and completion."""
    source = read_or_explain(builder.data_path, lambda: builder.as_data_source(split))
    return Records(source, fields, builder.data_path)


def read_texts(builder: Texts) -> tuple[dict[str, Records], str, str]:
    """Returns the splits, and the characters of all prompts and of all completions.

    Raises:
      OSError: the files are damaged.
    """
    prompts, completions = read_or_explain(
        builder.data_path, lambda: [builder.info.metadata[field] for field in FIELDS]
    )
    splits = {name: read_split(builder, name, *FIELDS) for name in Sizes._fields}
    return splits, prompts, completions


def read_or_explain(folder: pathlib.Path, read: Callable[[], _T]) -> _T:
    """Calls `read`; if that fails, raises an error that names the folder and says what to do.

    Raises:
      OSError: the folder cannot be read.
    """
    try:
        return read()
    except MemoryError:  # says nothing about the folder
        raise
    except Exception as cause:
        advice = (
            "fix that and try again"
            if files.is_io_failure(cause)
            else "move this folder away, and it will be prepared again"
        )
        why = getattr(cause, "strerror", None) or type(cause).__name__
        raise OSError(f"the data in {folder} cannot be read ({why}): {advice}") from cause


@contextlib.contextmanager
def lock_folder(parent: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time prepare data here; removes what a killed process left behind."""
    parent.mkdir(parents=True, exist_ok=True)
    with files.open_lock(parent / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.to_stderr(f"another process is preparing data in {parent}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        # tfds prepares into such a folder and renames it at the end; under the lock none is in use.
        for incomplete in parent.glob("incomplete.*"):
            shutil.rmtree(incomplete)
        yield


@contextlib.contextmanager
def silence(below: int) -> Iterator[None]:
    """Drops what libraries log by absl below a level."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(below)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
