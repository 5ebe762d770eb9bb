"""Text files that are written whole or not at all, locks, and lines that any terminal can show.

What stands in the way of reading is told from what is wrong with what was read.

Files and locks are never written through a link that came with a folder: it may lead out of it.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# No permission, too little of something, or a file server that is away.
IO_FAILURES = {
    getattr(errno, name)
    for name in (
        *("EPERM", "EACCES", "EINTR", "EAGAIN", "EBUSY", "ENOMEM", "EMFILE", "ENFILE", "ENODEV"),
        *("ETIMEDOUT", "ESTALE", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO"),
    )
    if hasattr(errno, name)  # macOS lacks the last
}

# How tensorstore and XLA say so; and Python, of threads.
IO_FAILURE_WORDS = (
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "can't start new thread",
)


def write(path: Path, text: str) -> Path:
    """Writes a text file whole or not at all, also if the power fails; returns its path.

    Raises:
      OSError: it cannot be written; names it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error.strerror}") from error


def flush(path: Path) -> None:
    """Returns when a file or folder is on disk, as it is now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def is_io_failure(error: Exception) -> bool:
    """Whether something stood in the way of reading, which says nothing of what was to be read."""
    return any(map(_names_io_failure, causes(error)))


def _names_io_failure(error: BaseException) -> bool:
    if isinstance(error, MemoryError | PermissionError | TimeoutError):
        return True
    told = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore's
    number = int(told[1]) if told else getattr(error, "errno", None)
    return number in IO_FAILURES or any(word in str(error) for word in IO_FAILURE_WORDS)


def open_lock(path: Path) -> TextIO:
    """A file to be locked, made if it is not there; what is in it stays.

    Raises:
      OSError: it cannot be opened, or is a link.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
