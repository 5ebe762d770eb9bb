"""Several processes of one run: which of them writes, what each sees of arrays, where they wait.

A run on several hosts is one process a host, and all do the same. Only the first writes what they
share: lines for people, records, files of the work directory, and its lock.
"""

import functools
import socket
import zlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

# Exit codes; main.py says what they mean.
DONE, CRASHED, REFUSED, STOPPED, LOST, INTERRUPTED = 0, 1, 2, 3, 69, 75

PATIENCE = 24 * 3600  # seconds; a process that is gone ends the others much earlier


def is_first() -> bool:
    """Whether this process writes what all share: it is the first, or the only one."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait_for_all(place: str) -> None:
    """Returns when all processes of the run have come to this place; each comes there once."""
    if jax.distributed.is_initialized():
        multihost.get_barrier_sync_fn()(key=f"sequencematch {place}", timeout_ms=1000 * PATIENCE)


def fetch(tree: Any) -> Any:
    """A tree of arrays as whole numpy arrays, in every process; all processes have to call it."""
    if all(x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def agree(number: int) -> bool:
    """Whether all processes have the same number, of 31 bits; all have to call it."""
    if not jax.distributed.is_initialized():
        return True
    return len(set(np.ravel(multihost_utils.process_allgather(np.int32(number))).tolist())) == 1


@functools.cache
def processes_here() -> int:
    """The number of processes of the run on this machine, or in this container; all have to call it."""
    if not jax.distributed.is_initialized():
        return 1
    here = np.int32(zlib.crc32(socket.gethostname().encode()) & 0x7FFFFFFF)
    return int(np.sum(multihost_utils.process_allgather(here) == here))


def first_finds(found: bool) -> bool:
    """What the first process finds, in every process: what all do next may hang on it.

    All have to call it.
    """
    if not jax.distributed.is_initialized():
        return found
    return bool(multihost_utils.broadcast_one_to_all(np.int32(found)))
