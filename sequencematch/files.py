"""Text files that are written whole or not at all, and lines that any terminal can show."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def write(path: Path, text: str) -> Path:
    """Writes a text file whole or not at all, also if the power fails; returns its path.

    Raises:
      OSError: it cannot be written; names it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error.strerror}") from error


def say(what: object) -> None:
    """Says something in one line on stderr, whatever characters it has."""
    line = " ".join(str(what).split()) or type(what).__name__
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    with contextlib.suppress(OSError):  # nobody reads it any more: no reason to stop
        print(f"sequencematch: {shown}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """What is printed here on stdout may find nobody who reads it: no reason to stop, or to fail."""
    try:
        yield
        sys.stdout.flush()
    except (OSError, SystemExit):  # rich's way to say that a pipe is broken
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
