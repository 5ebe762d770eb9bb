"""Says how far long work on the data is, on stderr."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from sequencematch.storage import console

_T = TypeVar("_T")
_FIRST = 2.0  # seconds of silence


def tell_progress(items: Iterable[_T], what: str, share: Callable[[int], float]) -> Iterator[_T]:
    """Yields the items; says after 2 seconds how far they are, then after 4, 8 and so on.

    Args:
      items: the work.
      what: what is done, such as "reading FILE".
      share: number of items that are done -> how much of the work that is, in [0, 1].
    """
    began, silence = time.monotonic(), _FIRST
    for done, item in enumerate(items):
        if time.monotonic() - began > silence:
            console.to_stderr(f"{what}: {share(done):.0%}")
            silence *= 2
        yield item
