"""Windows of text in array_record files: written once, read by index."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import secrets
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from sequencematch.data import prepared
from sequencematch.data.task import Example, example_bytes
from sequencematch.storage import console, files

_HEAD = struct.Struct("<?I")  # whether it is cut; bytes of the prompt
_SHARD = 2**28  # bytes, or a little more
_TOGETHER = 64  # records that are counted at once
# To find a record takes time and memory that grow with the number of groups: of 1.5 million windows of
# 256 bytes one is read in 10 to 40 ms from groups of 1, in .1 ms from groups of 128. Compression would
# save a tenth, and takes three times as long.
_OPTIONS = "group_size:128,uncompressed"


class Split(NamedTuple):
    """The windows of one split on disk: its files in order, and how many windows each has."""

    shards: list[str]
    sizes: list[int]


@dataclasses.dataclass(frozen=True)
class Windows(Sequence[Example]):
    """Some windows of a split, each read from its file on first use.

    Attributes:
      source: all records of the split.
      rows: which of them, in order.
      folder: where they are, for error messages.
      cache: those read so far, by record, up to `prepared.CACHE_SIZE`.
    """

    source: Sequence[bytes]
    rows: np.ndarray
    folder: pathlib.Path
    cache: dict[int, Example] = dataclasses.field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self.rows[range(len(self))[index]])  # negative indices, and IndexError
        if row in self.cache:
            return self.cache[row]
        example = prepared.read_or_explain(self.folder, lambda: unpack(self.source[row]))
        if len(self.cache) < prepared.CACHE_SIZE:
            self.cache[row] = example
        return example

    def recall(self, key: int) -> dict[str, np.ndarray] | None:
        """The arrays that were kept of these windows under a key; None if none were.

        Raises:
          OSError: they are damaged or cannot be read.
        """
        path = self._path_of(key)

        def read() -> dict[str, np.ndarray]:
            with np.load(path) as arrays:
                return dict(arrays)

        return prepared.read_or_explain(self.folder, read) if path.exists() else None

    def keep(self, key: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps arrays beside the windows, under a key; where nothing can be written, it says so."""
        path = self._path_of(key)
        # Others may keep the same at this moment.
        own = path.with_suffix(f".{secrets.token_hex(4)}")
        try:
            with own.open("xb") as file:
                np.savez(file, **arrays)
            files.flush(own)
            own.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):  # read-only file systems refuse this, too
                own.unlink(missing_ok=True)
            console.to_stderr(
                f"{path} cannot be written ({error.strerror}): it is made at each start"
            )

    def _path_of(self, key: int) -> pathlib.Path:
        return self.folder / f"found-{zlib.crc32(self.rows.tobytes(), key):08x}.npz"

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are kept."""
        return self.rows.nbytes + sum(map(example_bytes, self.cache.values()))


def pack(example: Example) -> bytes:
    """A window as a record."""
    prompt = example.prompt.encode()
    return _HEAD.pack(example.cut, len(prompt)) + prompt + example.completion.encode()


def unpack(record: bytes) -> Example:
    """The window in a record."""
    is_cut, size = _HEAD.unpack_from(record)
    middle = _HEAD.size + size
    prompt, completion = record[_HEAD.size : middle].decode(), record[middle:].decode()
    return Example(prompt, completion, cut=is_cut)


class Shards:
    """Writes the windows of one split into files of a quarter of a gigabyte.

    Args:
      folder: where the files are made.
      split: what their names begin with.
    """

    def __init__(self, folder: pathlib.Path, split: str):
        self._folder, self._split, self._bytes = folder, split, 0
        self._writer: ArrayRecordWriter | None = None
        self._found = Split([], [])

    def write(self, examples: Iterable[Example]) -> None:
        """Adds examples."""
        records = map(pack, examples)
        while some := [*itertools.islice(records, _TOGETHER)]:
            if self._writer is None:
                self._begin_shard()
            for record in some:
                self._writer.write(record)
            self._found.sizes[-1] += len(some)
            self._bytes += sum(map(len, some))
            if self._bytes > _SHARD:
                self._end_shard()

    def _begin_shard(self) -> None:
        self._found.shards.append(f"{self._split}-{len(self._found.shards):05}.array_record")
        self._found.sizes.append(0)
        path = self._folder / self._found.shards[-1]
        self._writer, self._bytes = ArrayRecordWriter(str(path), _OPTIONS), 0

    def _end_shard(self) -> None:
        self._writer.close()
        self._writer = None
        files.flush(self._folder / self._found.shards[-1])

    def close(self) -> Split:
        """Ends the last file; returns what is there."""
        if self._writer is not None:
            self._end_shard()
        return self._found


def open_windows(
    folder: pathlib.Path, found: Mapping[str, list], wanted: int, seed: int
) -> Windows:
    """Some windows of a split, drawn by the seed; all where there are no more than wanted, or for 0.

    Raises:
      OSError: files are damaged or cannot be read.
    """
    paths, count = [os.fspath(folder / name) for name in found["shards"]], sum(found["sizes"])
    begins = itertools.accumulate(found["sizes"][:-1], initial=0)
    with prepared.silence(logging.FATAL):
        source = prepared.read_or_explain(folder, lambda: ArrayRecordDataSource(paths))
        # At the first read of each file the library warns of groups, with large records in mind.
        for begin in begins if len(source) == count else ():
            prepared.read_or_explain(folder, lambda begin=begin: source[begin])
    if len(source) != count:
        raise OSError(
            f"the data in {folder} are damaged (of {count} windows {len(source)} are there): move this "
            "folder away, and it will be prepared again"
        )
    if not 0 < wanted < count:
        return Windows(source, np.arange(count, dtype=np.int32), folder)
    drawn = np.random.default_rng(seed).permutation(count)[:wanted]
    return Windows(source, np.sort(drawn).astype(np.int32), folder)
