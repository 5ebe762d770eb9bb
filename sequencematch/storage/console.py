"""Lines for people on stdout and stderr; a closed pipe or a full disk there is not an error."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from sequencematch.storage.processes import is_first


def to_stderr(what: object) -> None:
    """Prints one line on stderr; characters that are not printable are escaped.

    Of several processes each prints its own.
    """
    line = " ".join(str(what).split()) or type(what).__name__
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    with ignore_write_failures(sys.stderr):
        print(f"sequencematch: {shown}", file=sys.stderr)


def to_stdout(line: str) -> None:
    """Prints a line on stdout at once; of several processes the first does."""
    if not is_first():
        return
    with ignore_write_failures(sys.stdout):
        print(line)


def open_streams() -> None:
    """Opens those of stdin, stdout and stderr that are closed on /dev/null, and guards the last two.

    Otherwise errors would be printed on stdout, and the next file opened would get the descriptor of a
    standard stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    sys.stdout, sys.stderr = Guard(sys.stdout), Guard(sys.stderr)


def keep_stdout_apart() -> None:
    """Sends to stderr what C++ libraries print on stdout; Python goes on to print there."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = Guard(os.fdopen(own, "w", errors="backslashreplace"))


def drop_native_output() -> None:
    """Drops from now on what C++ libraries print on stdout, once it is kept apart."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)


class Guard:
    """A text stream that ignores failures to write: libraries and tasks of your own print, too.

    Args:
      file: the stream to write to, which does everything else.
    """

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> int:
        """Writes a text, or drops it."""
        with ignore_write_failures(self._file, flush=False):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what is in the buffer, or drops it."""
        with ignore_write_failures(self._file):
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def ignore_write_failures(file: TextIO, flush: bool = True) -> Iterator[None]:
    """Ignores failures to print on a file: a run must not stop because its output is not read."""
    try:
        yield
        if flush:
            file.flush()
    except (OSError, SystemExit):  # rich raises SystemExit when a pipe is broken
        _drop(file)


def _drop(file: TextIO) -> None:
    """Discards what could not be written; at exit Python would try again, and fail."""
    descriptor = file.fileno()
    # The only way to empty the buffer of a file is to flush it somewhere: here to /dev/null.
    original, devnull = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, descriptor)
        file.flush()
        os.dup2(original, descriptor)
    finally:
        os.close(original)
        os.close(devnull)
