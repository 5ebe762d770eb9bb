"""The lines of a text file, read by index: where each begins is kept in memory, and a checksum."""

import gzip
import os
import pathlib
import tempfile
import weakref
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from sequencematch.data.progress import tell_progress

_GZIP = b"\x1f\x8b"  # what such files begin with
_CHUNK = 2**20  # bytes


class Lines(Sequence[bytes]):
    """The lines of a file that are not blank. They can be read in any order once `scan` has ended.

    A compressed file cannot be read from its middle, so it is unpacked into a temporary file, which
    has no name and is gone when the process ends.

    Attributes:
      path: the file, as messages name it.

    Raises:
      OSError: the file cannot be read or unpacked.
      ValueError: it is a damaged compressed file.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._starts = np.zeros(1, np.int64)  # and, last, where the file ends
        self._sums = np.zeros(0, np.uint32)
        self._descriptor = _open(path)
        weakref.finalize(self, os.close, self._descriptor)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are kept."""
        return self._starts.nbytes + self._sums.nbytes

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """Yields (number of the line in the file, from 1; the line), and remembers where it begins."""
        starts, sums, at, size = array("q"), array("I"), 0, os.fstat(self._descriptor).st_size
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            what, share = f"reading {self.path}", lambda done: file.tell() / size
            for n, line in enumerate(tell_progress(file, what, share), 1):
                if not line.isspace():
                    starts.append(at)
                    sums.append(zlib.crc32(line))
                    yield n, line
                at += len(line)
        self._starts = np.append(np.asarray(starts, np.int64), at)
        self._sums = np.asarray(sums, np.uint32)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> bytes:
        """Line `index`.

        Raises:
          OSError: the file cannot be read, or the line is not what it was; lines may be appended.
        """
        begin, end = self._starts[index : index + 2].tolist()
        found = os.pread(self._descriptor, end - begin, begin)
        line = found[: found.find(b"\n") + 1] or found  # without the blank ones that follow
        if zlib.crc32(line) != self._sums[index]:
            raise OSError(f"{self.path} has been changed while it was in use: put it back")
        return line

    def place(self, index: int) -> str:
        """`FILE:NUMBER` of a line, for messages; counts the lines before it."""
        number, left, at = 1, int(self._starts[index]), 0
        while left > at:
            chunk = os.pread(self._descriptor, min(_CHUNK, left - at), at)
            number, at = number + chunk.count(b"\n"), at + len(chunk)
        return f"{self.path}:{number}"


def _open(path: pathlib.Path) -> int:
    """A descriptor of the file, or of what is unpacked from it."""
    descriptor = os.open(path, os.O_RDONLY)
    if os.pread(descriptor, len(_GZIP), 0) != _GZIP:
        return descriptor
    try:
        with open(descriptor, "rb") as packed, tempfile.TemporaryFile() as unpacked:
            unpacked.writelines(_unpack(packed, path))
            unpacked.flush()
            return os.dup(unpacked.fileno())
    except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise ValueError(f"{path}: it is compressed, and damaged: {cause}") from cause
    except OSError as cause:
        raise OSError(
            f"{path} cannot be unpacked into {tempfile.gettempdir()} ({cause.strerror}): unpack it "
            "yourself, or set TMPDIR to a folder with room"
        ) from cause


def _unpack(packed: BinaryIO, path: pathlib.Path) -> Iterator[bytes]:
    """The content of a compressed file, chunk by chunk."""
    size = os.fstat(packed.fileno()).st_size
    with gzip.open(packed) as content:
        chunks = iter(lambda: content.read(_CHUNK), b"")
        yield from tell_progress(chunks, f"unpacking {path}", lambda done: packed.tell() / size)
