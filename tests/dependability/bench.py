"""Runs of the main job that are killed or asked to stop, and resumed (see crash_test)."""

import math
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.dependability.aims import ANYWHERE, LATE, NEVER, Trigger
from tests.dependability.watched import (
    Child,
    last_recorded_step,
    last_saved_step,
    metrics_mtime,
    moment,
)

SUMMARY = "summary.json"  # it marks a run as done
LAST = ("results", "end")  # moments in which a run may finish before it handles the signal
# After this many sessions without a new checkpoint, the next is not killed before it has saved.
PATIENCE = 3
POLL = 0.003  # seconds between checks of what the job is doing
INTERRUPTED = 75  # exit code of a run that was asked to stop and has saved
EXIT_SECONDS = 30.0  # how long that may take


class Session(NamedTuple):
    """One process, from its start to its end.

    Attributes:
      aim, hit: the moment aimed at, and the one in which it was killed; hit is None if it ended itself.
      again: steps that have to be done again.
      left: seconds from the signal to the end.
      progress: whether there is a new checkpoint.
      seconds: its duration.
      code: its exit code.
    """

    aim: str
    hit: str | None
    again: int
    left: float
    progress: bool
    seconds: float
    code: int


class Bench:
    """A folder in which runs of one job are made, one after another.

    Args:
      folder: of everything.
      job: keys of the configuration.
      devices: how many to simulate.
      number: the signal to send.
    """

    def __init__(self, folder: Path, job: dict, devices: int, number: signal.Signals):
        self.folder = folder.absolute()
        self._flags = [
            "--config=configs/arithmetic.py",
            f"--config.data.dir={self.folder / 'data'}",
        ]
        self._flags += [f"--config.{key}={value}" for key, value in job.items()]
        self._flags += [f"--config.mesh.data={devices}", "--resume"]
        self._env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            # Calls return only when the work is done, so that the stack shows what is being done.
            "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self.signal, self.graceful = number, number != signal.SIGKILL
        self.steps, self.every = job["train.steps"], job["checkpoint.every"]
        self.horizon, self.limit = 0.0, 3600.0  # seconds: the longest delay, the longest session

    def start(self, run: Path) -> Child:
        """Starts the job in its folder; it resumes what is there."""
        beside = self.folder / f"{run.name}-process"
        beside.mkdir(parents=True, exist_ok=True)
        # A job that is asked to stop may finish a compilation first. With a cache for all runs that
        # is short, and does not hide how long everything else takes.
        place = self.folder if self.graceful else beside
        cache = {"JAX_COMPILATION_CACHE_DIR": str(place / "compiled")}
        return Child(beside, [*self._flags, f"--workdir={run}"], self._env | cache)

    def run_session(
        self, run: Path, aim: str, trigger: Callable[[float, str, bool], bool]
    ) -> Session:
        """Runs the job until `trigger(seconds, moment, progress)` and sends the signal, or to its end.

        Raises:
          RuntimeError: it failed, or did not end.
        """
        before, mtime, began = last_saved_step(run), metrics_mtime(run), time.monotonic()
        child, hit, sent, done = self.start(run), None, math.inf, False
        while child.process.poll() is None and time.monotonic() - began < self.limit:
            now = moment(child.note(), run)
            if trigger(time.monotonic() - began, now, last_saved_step(run) > before):
                done = (run / SUMMARY).is_file()
                child.process.send_signal(self.signal)
                hit, sent = now, time.monotonic()
                break
            time.sleep(POLL)
        code = wait_or_kill(child, EXIT_SECONDS)
        left = max(time.monotonic() - sent, 0.0)
        done |= hit in LAST and (run / SUMMARY).is_file()
        if code == 0 and (done or not self.graceful):
            hit = None  # it was done before the signal came
        if code not in self.exit_codes(hit, done):
            raise RuntimeError(f"{child.last_words()}\n{run.name}, {hit}: exit code {code}")
        trained = metrics_mtime(run) != mtime
        again = max(last_recorded_step(run) - last_saved_step(run), 0) if hit and trained else 0
        if again and code == INTERRUPTED:
            raise RuntimeError(f"{run.name}, {hit}: stopped, with {again} steps to do again")
        seconds = time.monotonic() - began
        return Session(aim, hit, again, left, last_saved_step(run) > before, seconds, code)

    def exit_codes(self, hit: str | None, done: bool) -> set[int]:
        """Exit codes that a signal in a moment may lead to, before or after the work was done.

        Without a signal it is 0.
        """
        if hit is None:
            return {0}
        if not self.graceful:
            return {-self.signal}
        # While Python starts and while it shuts down, the job has no handler. On a busy machine the
        # job is further than its last note says.
        return {INTERRUPTED, -self.signal} if hit == "start" or done else {INTERRUPTED}

    def remove_extra_checkpoints(self, run: Path) -> None:
        """Removes checkpoints saved on stopping, which the uninterrupted run does not have."""
        due = {*range(self.every, self.steps, self.every), self.steps}
        for folder in (run / "checkpoints").iterdir():
            if int(folder.name) not in due:
                shutil.rmtree(folder)

    def run_uninterrupted(self) -> Path:
        """Makes a run without signals, and sets the time limits by it; returns its folder."""
        run = self.folder / "uninterrupted"
        seconds = self.run_session(run, NEVER, lambda *_: False).seconds
        self.horizon, self.limit = seconds / 3, 60 + 10 * seconds
        return run

    def kill_and_resume(self, run: Path, kills: int, aims: Iterator[str]) -> Iterator[Session]:
        """The sessions of one run until it is done, of which at most `kills` are killed."""
        shutil.rmtree(self.folder / "data")  # it is prepared again, and the first kill comes then
        aim, stuck, late = "data", 0, iter(random.sample(LATE, 2))
        while True:
            aim = aim if kills else NEVER
            session = self.run_session(run, aim, Trigger(aim, self.horizon, stuck >= PATIENCE))
            yield session
            if session.hit is None:
                return
            kills, stuck = kills - 1, 0 if session.progress else stuck + 1
            trained = last_saved_step(run) == self.steps or kills == 1
            aim = next(late, NEVER) if trained else next(aims)
            if aim == "restore" and not last_saved_step(run):  # there is nothing to restore
                aim = ANYWHERE


def wait_or_kill(child: Child, seconds: float) -> int:
    """Waits for a process, and kills it if it takes longer; returns its exit code."""
    try:
        return child.process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.process.kill()
        return child.process.wait()
