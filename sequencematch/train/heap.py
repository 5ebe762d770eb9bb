"""What malloc keeps of memory that is free again, where that is glibc's: elsewhere nothing is done.

glibc gives threads arenas of their own, up to eight for each core. Training has some ninety threads, a
save has others each time, and what they free stays in pieces among what is in use. Threads that share
arenas wait for each other, which makes steps on CPUs slower: who would rather have the memory taken
sets MALLOC_ARENA_MAX.
"""

import ctypes
import os

ARENAS = 2
_M_ARENA_MAX = -8  # of malloc.h


def limit_arenas() -> None:
    """Lets malloc have two arenas from now on; to be called before threads are there."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        _call("mallopt", _M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Gives the system what was freed."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function and hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        function(*arguments)
