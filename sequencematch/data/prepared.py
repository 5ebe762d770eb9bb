"""Data sets that tensorflow-datasets prepares once and that are then read by index.

They are array_record files. TensorFlow is neither needed nor imported.
"""

import contextlib
import dataclasses
import fcntl
import io
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tensorflow_datasets as tfds
from absl import logging

from sequencematch.data.mathematics import preserve_global_random
from sequencematch.data.task import Example
from sequencematch.storage import console, files

_T = TypeVar("_T")
_CACHE_SIZE = 200_000  # examples, of a few hundred bytes each


@dataclasses.dataclass(frozen=True)
class Records(Sequence):
    """The examples of a split, each read from its file on first use.

    Attributes:
      source: records as tensorflow-datasets reads them, each a dict of bytes.
      fields: the names of prompt and completion in a record.
      folder: where the files are, for error messages.
      cache: the examples read so far, by index, up to `_CACHE_SIZE` of them.
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
        if len(self.cache) < _CACHE_SIZE:
            self.cache[index] = example
        return example

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
        with _lock(folder.parent), preserve_global_random(), _silence_tfds():
            # Again: another process may have prepared them while this one waited for the lock.
            if not folder.exists():
                _prepare(folder, make())
    with _silence_tfds():
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
def _lock(parent: pathlib.Path) -> Iterator[None]:
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
def _silence_tfds() -> Iterator[None]:
    """Drops the warning of tfds that a configuration is not an attribute of its builder's class."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
