"""What memory this machine has left."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from sequencematch.storage.provenance import devices

# Controller of Linux's control groups -> its folder, and the files of its limit and use: version 2, 1.
GROUPS = {"": ("", "max", "current"), "memory": ("memory", "limit_in_bytes", "usage_in_bytes")}


def available_bytes(count: int) -> int:
    """Bytes that each of `count` devices has: an accelerator its own, CPUs a share of the machine's."""
    limits = devices()[0].memory_stats()
    return limits["bytes_limit"] if limits else free_bytes() // count


def free_bytes(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this machine has left, or the containers that this process runs in."""
    return min([psutil.virtual_memory().available, *bytes_left_in_groups(root, own)])


def bytes_left_in_groups(root: Path, own: Path) -> Iterator[int]:
    """What each control group of this process that has a limit, and each around it, has left."""
    lines = own.read_text().splitlines() if own.is_file() else []  # Linux has it
    for _, controllers, path in (line.split(":", 2) for line in lines):
        for folder, limit, used in (GROUPS[c] for c in controllers.split(",") if c in GROUPS):
            inner = root / folder / path.strip("/")
            for group in (g for g in (inner, *inner.parents) if g.is_relative_to(root / folder)):
                with contextlib.suppress(OSError, ValueError, KeyError):  # no limit, or none told
                    yield bytes_left(group, limit, used)


def bytes_left(group: Path, limit: str, used: str) -> int:
    """Bytes that a control group has left: the kernel gives up what it keeps of files."""
    there, taken = (int((group / f"memory.{name}").read_text()) for name in (limit, used))
    parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    cached = (parts.get(f"total_{x}", parts[x]) for x in ("active_file", "inactive_file"))
    return there - taken + sum(map(int, cached))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, here or on a device."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def format_bytes(size: float) -> str:
    """A number of bytes for people."""
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.1f} {units[0]}"
