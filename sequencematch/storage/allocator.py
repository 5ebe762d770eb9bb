"""Settings of glibc's malloc: return freed memory to the system and, opt-in, limit the arenas.

glibc gives threads memory arenas of their own, up to eight per core. Training runs about ninety
threads, each save starts others, and the memory they free stays scattered between blocks in use:
resident memory grows by 16 MB an hour. With two arenas it does not grow, but threads wait for each
other and steps on CPUs are 4 to 16 % slower. So the limit is off unless the environment has
SEQUENCEMATCH_MALLOC_ARENAS=2.
"""

import ctypes
import os

VARIABLE = "SEQUENCEMATCH_MALLOC_ARENAS"
_M_ARENA_MAX = -8  # from malloc.h


def limit_arenas() -> None:
    """Limits malloc to the number of arenas that the environment variable gives.

    Call it before any thread starts: an arena that exists already is not taken away.

    Raises:
      ValueError: the variable is not a whole number from 1 on.
    """
    arenas = os.environ.get(VARIABLE, "")
    if not arenas:
        return
    if not (arenas.isdecimal() and 0 < int(arenas) < 2**31):  # mallopt takes a C int
        raise ValueError(f"{VARIABLE}={arenas!r} must be a whole number from 1 on, such as 2")
    _call("mallopt", _M_ARENA_MAX, int(arenas))


def trim() -> None:
    """Returns freed memory to the system; called once after each save, its cost does not show."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """Calls a function of glibc; does nothing with another C library."""
    function = getattr(ctypes.CDLL(None), name, None)
    # Other libraries may have functions of the same name that do something else.
    if function and hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        function(*arguments)
