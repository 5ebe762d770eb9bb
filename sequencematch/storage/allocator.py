"""glibc's malloc: freed memory goes back to the system, and, opt-in, there are fewer arenas.

glibc gives threads arenas of their own, up to eight for each core. Training has some ninety threads, a
save has others each time, and the memory that they free stays in pieces among what is in use: 16 MB an
hour. With two arenas nothing grows, but threads wait for each other, and steps on CPUs are 4 to 16 %
slower. So it is off unless SEQUENCEMATCH_MALLOC_ARENAS=2 is in the environment.
"""

import ctypes
import os

VARIABLE = "SEQUENCEMATCH_MALLOC_ARENAS"
_M_ARENA_MAX = -8  # of malloc.h


def limit_arenas() -> None:
    """Limits malloc to as many arenas as the variable says; to be called before threads start.

    Raises:
      ValueError: the variable is no whole number from 1 on.
    """
    arenas = os.environ.get(VARIABLE, "")
    if not arenas:
        return
    if not (arenas.isdecimal() and 0 < int(arenas) < 2**31):
        raise ValueError(f"{VARIABLE}={arenas!r} must be a whole number from 1 on, such as 2")
    _call("mallopt", _M_ARENA_MAX, int(arenas))


def trim() -> None:
    """Gives freed memory back to the system: once after each save, so it costs nothing that shows."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """Calls a function of glibc; where malloc is another one, nothing is done."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function and hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        function(*arguments)
