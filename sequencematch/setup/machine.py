"""How this machine computes, the memory it has available, and whether an error means it ran out."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import psutil
from ml_collections import ConfigDict

from sequencematch.storage.processes import processes_here
from sequencematch.storage.provenance import devices_here

# Linux's control groups: controller in /proc/self/cgroup -> (its folder, the files of its limit and of
# its use). Version 2 names no controller; version 1 has a hierarchy of its own for memory.
GROUPS = {"": ("", "max", "current"), "memory": ("memory", "limit_in_bytes", "usage_in_bytes")}


def available_bytes(count: int) -> int:
    """Bytes that each of a run's `count` devices may use.

    An accelerator has memory of its own. CPU devices share what their machine has free.
    """
    limits = devices_here()[0].memory_stats()
    if limits:
        return limits["bytes_limit"]
    return free_bytes() * jax.process_count() // (count * processes_here())


def pool_advice() -> str:
    """What else helps on an accelerator, of whose memory jax takes a part when it starts."""
    has_pool = bool(devices_here()[0].memory_stats())
    return ". jax may use more of it with XLA_CLIENT_MEM_FRACTION=.9" * has_pool


def free_bytes(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that are free on this machine, or less if a container around this process has less.

    Args:
      root: where control groups are mounted.
      own: the file that names the groups of this process.
    """
    return min([psutil.virtual_memory().available, *bytes_left_in_groups(root, own)])


def bytes_left_in_groups(root: Path, own: Path) -> Iterator[int]:
    """Bytes left in every control group around this process that has a limit."""
    lines = own.read_text().splitlines() if own.is_file() else []  # only Linux has the file
    for _, controllers, path in (line.split(":", 2) for line in lines):
        for folder, limit, used in (GROUPS[c] for c in controllers.split(",") if c in GROUPS):
            inner = root / folder / path.strip("/")
            # A group is bound by the limits of all groups around it, too.
            for group in (g for g in (inner, *inner.parents) if g.is_relative_to(root / folder)):
                # "max" is not a number, and a container may hide the groups around it.
                with contextlib.suppress(OSError, ValueError, KeyError):
                    yield bytes_left(group, limit, used)


def bytes_left(group: Path, limit: str, used: str) -> int:
    """Bytes that a control group has left.

    The page cache counts as use, but the kernel drops it when memory is needed, so it is added back.
    """
    total, taken = (int((group / f"memory.{name}").read_text()) for name in (limit, used))
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    # In version 1 the plain names leave out the groups inside this one; version 2 has no others.
    cached = (stat.get(f"total_{x}", stat[x]) for x in ("active_file", "inactive_file"))
    return total - taken + sum(map(int, cached))


def compute_exactly(config: ConfigDict) -> None:
    """Makes products of float32 matrices those of float32 numbers, if a run computes in float32.

    Accelerators would round what they multiply to 8 or 11 bits. JAX_DEFAULT_MATMUL_PRECISION in the
    environment goes first.
    """
    is_default = jax.config.jax_default_matmul_precision is None
    if is_default and config.model.dtype == "float32" and devices_here()[0].platform != "cpu":
        jax.config.update("jax_default_matmul_precision", "float32")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out, on the host or on a device."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def format_bytes(size: float) -> str:
    """A number of bytes with a binary unit, such as `1.5 KiB`."""
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.1f} {units[0]}"
