"""A prepared command: checks are done and files are open, so that only the work itself is left."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from sequencematch.train.stop_requests import StopRequests


class Job(NamedTuple):
    """Work that has passed all checks.

    Attributes:
      run: does the work.
      advice: what to do if it is interrupted or stopped.
    """

    run: Callable[[], None]
    advice: str = "give the same command again"


class Call(NamedTuple):
    """What the command line asked for, its configuration aside.

    Attributes:
      folder: the work directory.
      name: name of the configuration.
      command: the command line, for the summary.
      stop_requests: listens for requests to stop.
      resources: closed when the command ends; holds the lock of the work directory.
    """

    folder: Path
    name: str
    command: str
    stop_requests: StopRequests
    resources: ExitStack
