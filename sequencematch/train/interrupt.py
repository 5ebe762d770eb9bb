"""Leaving when asked to: Ctrl-C, SIGTERM, or the notice that a pod's scheduler gives to jax.

The first signal asks the run to leave; the second one leaves at once, as if nothing listened. While
a step is taken or a checkpoint written a request waits; anywhere else it is an exception.
"""

import contextlib
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The run was asked to leave; names the signal. No `Exception`, so that nothing swallows it."""


class Interruption:
    """Listens for requests to leave, as a context manager.

    Between the processes of a pod jax passes SIGTERM on itself, so that all of them stop at the same
    step; then no signal is taken here, and `check` asks jax.
    """

    def __init__(self):
        self._asked: str | None = None
        self._waits = False
        self._before: dict = {}

    def __enter__(self) -> "Interruption":
        if not jax.distributed.is_initialized():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._asked = signal.Signals(number).name
        self._hear()

    def check(self, step: int) -> None:
        """Raises Interrupted if the run is to leave after `step` steps; all processes agree."""
        if self._asked is None and multihost_utils.reached_preemption_sync_point(step):
            self._asked = "notice of preemption"
        if self._asked is not None:
            raise Interrupted(self._asked)

    @contextlib.contextmanager
    def waiting(self, waits: bool = True) -> Iterator[None]:
        """A stretch of work in which requests wait for the next `check`, or for its end."""
        before, self._waits = self._waits, waits
        try:
            self._hear()
            yield
        finally:
            self._waits = before
        self._hear()

    def heard(self) -> contextlib.AbstractContextManager[None]:
        """A stretch of work, within one where requests wait, that can be left at any moment."""
        return self.waiting(False)

    def _hear(self) -> None:
        # Also for a request whose exception was lost: Python drops those raised in a finaliser.
        if self._asked is not None and not self._waits:
            raise Interrupted(self._asked)
