"""The moments of the main job at which a signal is aimed, and when it is sent (see crash_test)."""

import math
import random

ANYWHERE, NEVER = "anywhere", "never"
# One round: saves twice, and three signals at any moment.
AIMS = ["save", "sampling", ANYWHERE, "validation", ANYWHERE, "step", "restore"]
AIMS += ["save", "compilation", ANYWHERE, "start"]
# For a run whose training is done, and for the last signal.
LATE = ["test", "results", "end", ANYWHERE, "restore"]
# Seconds within which the signal is sent once the moment is seen, so that it hits any part of it.
LINGER = {"data": 1.0, "compilation": 2.0, "restore": 0.1, "save": 0.1, "test": 0.2, "results": 0.2}
# They come once in a session: a delay could miss them.
ONCE = ["data", "restore", "compilation", "test", "results", "end"]


class Trigger:
    """Decides when to send the signal.

    After a random delay it waits for the moment aimed at, and then a short random time more.

    Args:
      aim: a moment, ANYWHERE or NEVER.
      horizon: the longest delay, in seconds.
      wait: whether to wait for a new checkpoint first.
    """

    def __init__(self, aim: str, horizon: float, wait: bool):
        delay = random.uniform(0.0, 3.0 if aim == "start" else horizon)
        self._delay = 0.0 if aim in ONCE else delay
        self._linger = random.uniform(0.0, LINGER.get(aim, 0.0))
        self._aim, self._wait, self._seen = aim, wait, math.inf

    def __call__(self, seconds: float, now: str, progress: bool) -> bool:
        """Whether to send the signal now.

        Args:
          seconds: since the start of the process.
          now: the present moment.
          progress: whether there is a new checkpoint.
        """
        ripe = seconds >= self._delay and (progress or not self._wait)
        if ripe and self._aim in (ANYWHERE, now):
            self._seen = min(self._seen, seconds)
        return seconds >= self._seen + self._linger
