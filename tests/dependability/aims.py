"""At which moment of the main job a signal is aimed, and when it is sent (see crash_test)."""

import math
import random

ANYWHERE, NEVER = "anywhere", "never"
AIMS = ["save", "sampling", ANYWHERE, "validation", ANYWHERE, "step", "restore"]
AIMS += ["save", "compilation", ANYWHERE, "start"]
# Once training is done, and for the last kill.
LATE = ["test", "results", "end", ANYWHERE, "restore"]
LINGER = {"data": 1.0, "compilation": 2.0, "restore": 0.1, "save": 0.1, "test": 0.2, "results": 0.2}
# In a session: not to be missed.
ONCE = ["data", "restore", "compilation", "test", "results", "end"]


class Trigger:
    """When to kill: a random time after the first sight, after a random delay, of what is aimed at.

    Args:
      aim: a moment, ANYWHERE or NEVER.
      horizon: seconds, the longest delay.
      wait: whether there must be a new checkpoint first.
    """

    def __init__(self, aim: str, horizon: float, wait: bool):
        delay = random.uniform(0.0, 3.0 if aim == "start" else horizon)
        self._delay = 0.0 if aim in ONCE else delay
        self._linger = random.uniform(0.0, LINGER.get(aim, 0.0))
        self._aim, self._wait, self._seen = aim, wait, math.inf

    def __call__(self, seconds: float, now: str, progress: bool) -> bool:
        """Whether to kill now, `seconds` after the start."""
        ripe = seconds >= self._delay and (progress or not self._wait)
        if ripe and self._aim in (ANYWHERE, now):
            self._seen = min(self._seen, seconds)
        return seconds >= self._seen + self._linger
