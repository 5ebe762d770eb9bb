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

    Of several processes, jax takes SIGTERM in each and tells all, so that they stop at the same place;
    the other signals are passed on as a SIGTERM. A place has a number, the count of checks so far,
    which is the same in all processes because they do the same. In a thread no handler is installed,
    where Python allows none: signals do there what the main thread has them do.
    """

    def __init__(self):
        self._checks = 0  # of several processes
        self._request: str | None = None  # what asked to stop
        self._deferring = False
        self._original_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            # What a shell or nohup ignores for its child stays ignored.
            handled = [
                n for n in SECOND_HANDLERS if signal.getsignal(n) not in (signal.SIG_IGN, None)
            ]
            self._original_handlers = {n: signal.signal(n, self._handle) for n in handled}
        return self

    def share(self) -> None:
        """From now on a request to one of several processes is one to all; call it once they are."""
        # jax has set a handler of its own for SIGTERM.
        self._original_handlers.pop(signal.SIGTERM, None)
        for each in self._original_handlers:
            signal.signal(each, lambda *_: os.kill(os.getpid(), signal.SIGTERM))

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

    def check(self) -> None:
        """Raises Interrupted if the run is to stop here, also where requests are deferred."""
        self._hear_others()
        if self._request is not None:
            raise Interrupted(self._request)

    def _hear_others(self) -> None:
        # jax returns True at the same number in every process, some checks after the notice.
        self._checks += 1
        if self._request is None and multihost_utils.reached_preemption_sync_point(self._checks):
            self._request = "notice of preemption"

    def deferred(self) -> contextlib.AbstractContextManager[None]:
        """A block in which requests wait for the next `check`, or for the end of the block."""
        return self._block(defers=True)

    def interruptible(self) -> contextlib.AbstractContextManager[None]:
        """A block, inside a deferred one, that a request ends at once."""
        return self._block(defers=False)

    @contextlib.contextmanager
    def _block(self, defers: bool) -> Iterator[None]:
        before, self._deferring = self._deferring, defers
        try:
            self.raise_if_asked()
            yield
        finally:
            self._deferring = before
        self.raise_if_asked()

    def raise_if_asked(self) -> None:
        """Raises Interrupted if the run was asked to stop, unless requests are deferred.

        To be called now and then in long work: the exception of a signal handler can be lost, since
        Python drops an exception that is raised in a finaliser.
        """
        if not self._deferring:
            self.check()
