"""Stops a run on request: a signal, or a notice of preemption that jax receives.

Signals that ask are Ctrl-C, SIGTERM, SIGHUP (the terminal was closed), and SIGUSR1 and SIGUSR2 (the
warning that SLURM and other schedulers send). Once one has come, Ctrl-C kills the process at once; the
others are ignored, because schedulers send several. While a step is taken or a checkpoint written, a
request waits; anywhere else it raises `Interrupted` at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

# Signals that ask to stop -> their handler once one of them has come.
SECOND_HANDLERS = {
    signal.SIGINT: signal.SIG_DFL,
    signal.SIGTERM: signal.SIG_IGN,
    signal.SIGHUP: signal.SIG_IGN,
    signal.SIGUSR1: signal.SIG_IGN,
    signal.SIGUSR2: signal.SIG_IGN,
}


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; the message names the signal.

    A KeyboardInterrupt, because libraries that catch Exception, and even asyncio, let that pass.
    """


class StopRequests:
    """Listens for requests to stop, as a context manager.

    In a pod, jax takes SIGTERM itself and tells all processes, so that they stop at the same step.
    Then no handler is installed here, and `check` asks jax. Nor is one in a thread, where Python allows
    none: signals do there what the main thread has them do.
    """

    def __init__(self):
        self._request: str | None = None  # what asked to stop
        self._deferring = False
        self._original_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequests":
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and not jax.distributed.is_initialized():
            # What a shell or nohup ignores for its child stays ignored.
            handled = [
                n for n in SECOND_HANDLERS if signal.getsignal(n) not in (signal.SIG_IGN, None)
            ]
            self._original_handlers = {n: signal.signal(n, self._handle) for n in handled}
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        for number, handler in self._original_handlers.items():
            signal.signal(number, handler)
        if error is None:
            self.raise_if_asked()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for each in self._original_handlers:
            signal.signal(each, SECOND_HANDLERS[each])
        self._request = signal.Signals(number).name
        if self._deferring:
            # Not print: a handler may interrupt a print, whose buffer cannot be entered twice. With
            # `| tee`, Ctrl-C may have ended the reader already; the run still has to be saved.
            with contextlib.suppress(OSError):
                os.write(2, f"sequencematch: {self._request}: saving, then leaving\n".encode())
        self.raise_if_asked()

    def check(self, step: int) -> None:
        """Raises Interrupted if the run is to stop after `step` steps; all processes agree on it."""
        # In a pod, jax returns True at the same step in every process, some steps after the notice.
        if self._request is None and multihost_utils.reached_preemption_sync_point(step):
            self._request = "notice of preemption"
        if self._request is not None:
            raise Interrupted(self._request)

    @contextlib.contextmanager
    def deferred(self, defer: bool = True) -> Iterator[None]:
        """A block in which requests wait for the next `check`, or for the end of the block.

        Args:
          defer: False for a block that is `interruptible`.
        """
        before, self._deferring = self._deferring, defer
        try:
            self.raise_if_asked()
            yield
        finally:
            self._deferring = before
        self.raise_if_asked()

    def interruptible(self) -> contextlib.AbstractContextManager[None]:
        """A block, inside a deferred one, that a request ends at once."""
        return self.deferred(False)

    def raise_if_asked(self) -> None:
        """Raises Interrupted if the run was asked to stop, unless requests are deferred.

        To be called now and then in long work: the exception of a signal handler can be lost, since
        Python drops an exception that is raised in a finaliser.
        """
        if self._request is not None and not self._deferring:
            raise Interrupted(self._request)
