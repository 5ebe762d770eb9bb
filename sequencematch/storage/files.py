"""Atomic writes of text files, lock files, and the distinction of I/O failures.

I/O failures are distinguished from corrupt content: after a failure the content may well be sound, and
reading can be tried again.

No file and no lock is written through a symbolic link: in a work directory from somebody else, a link
may lead out of it.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# No permission, a lack of some resource, or a file server that does not answer. EIO is not among them:
# a bad sector is damage.
IO_FAILURES = {
    getattr(errno, name)
    for name in (
        *("EPERM", "EACCES", "EINTR", "EAGAIN", "EBUSY", "ENOMEM", "EMFILE", "ENFILE", "ENODEV"),
        *("ETIMEDOUT", "ESTALE", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO"),
    )
    if hasattr(errno, name)  # macOS lacks the last
}

# Words for the same in messages of tensorstore and XLA, and the last in one of Python's.
IO_FAILURE_WORDS = (
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "can't start new thread",
)


def write(path: Path, text: str) -> Path:
    """Writes a text file atomically, also if the power fails; returns its path.

    Raises:
      OSError: it cannot be written; the message names it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)
        # "x" fails if the file exists, so it follows no link that is put there meanwhile.
        with temporary.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            # Without it, the new name can reach the disk before the content does.
            os.fsync(file.fileno())
        return temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # read-only file systems refuse this, too
            temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error.strerror}") from error


def flush(path: Path) -> None:
    """Returns when the present content of a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def expand(path: str | os.PathLike) -> Path:
    """The path, a leading ~ expanded; that of a user who is not known stays, and leads nowhere."""
    return Path(os.path.expanduser(path))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the error it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def is_io_failure(error: Exception) -> bool:
    """Whether the content could not be read now, which does not mean that it is damaged."""
    return any(map(_names_io_failure, causes(error)))


def _names_io_failure(error: BaseException) -> bool:
    if isinstance(error, MemoryError | PermissionError | TimeoutError):
        return True
    # tensorstore raises ValueError and writes the errno into its message.
    match = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(match[1]) if match else getattr(error, "errno", None)
    return number in IO_FAILURES or any(word in str(error) for word in IO_FAILURE_WORDS)


def open_lock(path: Path) -> TextIO:
    """Opens a file to be locked; creates it if it is missing and does not truncate it.

    Raises:
      OSError: it cannot be opened, or is a link.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
