"""What a command returns once all is checked and opened: work that can begin."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from sequencematch.train.stop_requests import StopRequests


class Job(NamedTuple):
    """Work that nothing stands in the way of.

    Attributes:
      do: does it.
      advice: what to do when it is cut short.
    """

    do: Callable[[], None]
    advice: str = "nothing is lost"


class Call(NamedTuple):
    """What was asked for.

    Attributes:
      folder: the work directory.
      name: of the configuration.
      command: as it was typed.
      stop_requests: listens for requests to leave.
      held: what is let go when the call is over.
    """

    folder: Path
    name: str
    command: str
    stop_requests: StopRequests
    held: ExitStack
