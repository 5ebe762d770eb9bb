"""Data sets that tensorflow-datasets prepares once, and that are read by index ever after.

They are array_record files. No TensorFlow is needed, nor imported.
"""

import contextlib
import dataclasses
import fcntl
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tensorflow_datasets as tfds
from absl import logging

from sequencematch.data.mathematics import preserve_global_random
from sequencematch.data.task import Example
from sequencematch.storage import console, files

_T = TypeVar("_T")
_KEPT = 200_000  # some hundred bytes each


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
        example = read_or_explain(self.folder, lambda: self._read(index))
        if len(self.kept) < _KEPT:
            self.kept[index] = example
        return example

    def _read(self, index: int) -> Example:
        record = self.source[index]
        return Example(*(record[field].decode() for field in self.fields))


def open_or_prepare(
    make: Callable[[], tfds.core.DatasetBuilder], folder: pathlib.Path, check: Callable[[], None]
) -> tfds.core.DatasetBuilder:
    """Returns a builder whose files exist in `folder`; `check` may object before they are made."""
    if not folder.exists():
        check()
        with _lock(folder.parent), preserve_global_random(), _silence_tfds():
            if not folder.exists():
                _prepare(folder, make())
    with _silence_tfds():
        return read_or_explain(folder, make)


def _prepare(folder: pathlib.Path, builder: tfds.core.DatasetBuilder) -> None:
    try:
        builder.download_and_prepare(file_format="array_record")
    except RuntimeError as cause:
        if type(cause) is RuntimeError:  # array_record's, when the disk is full
            raise OSError(f"the data cannot be written to {folder} ({cause})") from cause
        raise


def read_split(builder: tfds.core.DatasetBuilder, split: str, *fields: str) -> Records:
    """The examples of a split, whose prompt and completion are the fields named."""
    source = read_or_explain(builder.data_path, lambda: builder.as_data_source(split))
    return Records(source, fields, builder.data_path)


def read_or_explain(folder: pathlib.Path, read: Callable[[], _T]) -> _T:
    """What is read of a folder.

    Raises:
      OSError: it cannot be read; says what to do.
    """
    try:
        return read()
    except MemoryError:
        raise
    except Exception as cause:
        advice = (
            "when that is mended, try again"
            if files.is_io_failure(cause)
            else "move this folder away, and it will be made again"
        )
        why = getattr(cause, "strerror", None) or type(cause).__name__
        raise OSError(f"the data in {folder} cannot be read ({why}): {advice}") from cause


@contextlib.contextmanager
def _lock(parent: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time prepare data here; removes what a killed one left half made."""
    parent.mkdir(parents=True, exist_ok=True)
    with files.open_lock(parent / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.to_stderr(f"another process prepares data in {parent}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        for half_made in parent.glob("incomplete.*"):
            shutil.rmtree(half_made)
        yield


@contextlib.contextmanager
def _silence_tfds() -> Iterator[None]:
    """Drops the warning that tfds gives for every configuration that is no class attribute."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
