"""Lines for people on stdout and stderr; a closed pipe or a full disk there is no failure."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


def to_stderr(what: object) -> None:
    """Says something in one line on stderr, whatever characters it has."""
    line = " ".join(str(what).split()) or type(what).__name__
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    with ignore_write_failures(sys.stderr):
        print(f"sequencematch: {shown}", file=sys.stderr)


def to_stdout(line: str) -> None:
    """Prints a line on stdout at once."""
    with ignore_write_failures(sys.stdout):
        print(line)


def open_streams() -> None:
    """Of stdin, stdout and stderr, those that are closed lead nowhere from now on.

    Else errors would be printed on stdout, and what is opened next would get their numbers.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


@contextlib.contextmanager
def ignore_write_failures(file: TextIO) -> Iterator[None]:
    """What is printed on it may find no reader, or a full disk: no reason to stop, or to fail."""
    try:
        yield
        file.flush()
    except (OSError, SystemExit):  # rich's way to say that a pipe is broken
        _drop(file)


def _drop(file: TextIO) -> None:
    """Forgets what could not be written: Python would try once more when it ends, and fail."""
    descriptor = file.fileno()
    kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
        file.flush()
        os.dup2(kept, descriptor)
    finally:
        os.close(kept)
        os.close(nowhere)
