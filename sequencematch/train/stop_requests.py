"""Leaving when asked to: Ctrl-C, SIGTERM, or the notice that a pod's scheduler gives to jax.

The first signal asks the run to leave; a second Ctrl-C leaves at once, as if nothing listened, and a
second SIGTERM changes nothing: schedulers send several. While a step is taken or a checkpoint written
a request waits; anywhere else it is an exception.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

# What is listened for, and what it does the second time.
SECOND = {signal.SIGINT: signal.SIG_DFL, signal.SIGTERM: signal.SIG_IGN}


class Interrupted(KeyboardInterrupt):
    """The run was asked to leave; names the signal. What it is of, even asyncio lets through."""


class StopRequests:
    """Listens for requests to leave, as a context manager.

    Between the processes of a pod jax passes SIGTERM on itself, so that all of them stop at the same
    step; then no signal is taken here, and `check` asks jax.
    """

    def __init__(self):
        self._asked: str | None = None
        self._waits = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequests":
        # What a shell or nohup has ignored for its child stays ignored.
        taken = [n for n in SECOND if signal.getsignal(n) not in (signal.SIG_IGN, None)]
        if not jax.distributed.is_initialized():
            self._before = {number: signal.signal(number, self._note) for number in taken}
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self.raise_if_asked()

    def _note(self, number: int, frame: FrameType | None) -> None:
        for each in self._before:
            signal.signal(each, SECOND[each])
        self._asked = signal.Signals(number).name
        if self._waits:
            with contextlib.suppress(OSError):  # Ctrl-C ends `| tee` first, and nobody reads this
                os.write(2, f"sequencematch: {self._asked}: saving, then leaving\n".encode())
        self.raise_if_asked()

    def check(self, step: int) -> None:
        """Raises Interrupted if the run is to leave after `step` steps; all processes agree."""
        if self._asked is None and multihost_utils.reached_preemption_sync_point(step):
            self._asked = "notice of preemption"
        if self._asked is not None:
            raise Interrupted(self._asked)

    @contextlib.contextmanager
    def deferred(self, waits: bool = True) -> Iterator[None]:
        """A stretch of work in which requests wait for the next `check`, or for its end."""
        before, self._waits = self._waits, waits
        try:
            self.raise_if_asked()
            yield
        finally:
            self._waits = before
        self.raise_if_asked()

    def interruptible(self) -> contextlib.AbstractContextManager[None]:
        """A stretch of work, within one where requests wait, that can be left at any moment."""
        return self.deferred(False)

    def raise_if_asked(self) -> None:
        """Raises Interrupted if the run was asked to leave and nothing has to be waited for.

        To be called now and then in long work: what a signal raises can be lost, as Python drops
        what is raised in a finaliser.
        """
        if self._asked is not None and not self._waits:
            raise Interrupted(self._asked)
