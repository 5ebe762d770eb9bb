"""Kill -9 at any moment and resume: bit for bit the uninterrupted run.

    python -m tests.dependability.crash_test [--kills=50] [--devices=1] [--small]
                                             [--signal=KILL] [--folder=DIR]

The real main job in processes of its own. One run is left alone; others are killed, a third of the
time anywhere, else aimed at a moment (watched.MOMENTS), and resumed until they are done; runs follow
each other until all kills are spent. Each prepares its data anew, and compiles its steps anew if it is
killed. Then every array of every checkpoint, metrics.jsonl, traces.jsonl, summary.json and the events
of TensorBoard must equal those of the run left alone, clocks aside (same_run). Exit code 1 if anything
differs or a session fails.

With --signal=TERM or INT the job is asked to leave instead: it must save, exit with 75 within 30
seconds, and no step may be done again; all checkpoints are kept and compared. That it goes on as if
nothing had been asked is a failure, too.
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import app, flags, logging

from tests.dependability import same_run
from tests.dependability.aims import AIMS, ANYWHERE, LATE, NEVER, Trigger
from tests.dependability.watched import SMALL, Child, moment, new_folder, recorded, saved, touched

KILLS = flags.DEFINE_integer("kills", 50, "How often to kill.", lower_bound=1)
DEVICES = flags.DEFINE_integer("devices", 1, "Simulated devices.", lower_bound=1)
SMALLER = flags.DEFINE_bool("small", False, "A job of some 20 seconds, not of two minutes.")
SIGNAL = flags.DEFINE_enum("signal", "KILL", ["KILL", "TERM", "INT"], "What is sent.")
SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
FOLDER = flags.DEFINE_string("folder", None, "Where the runs go: runs/crash-test-<now>.")

JOB = {  # all that the default job has, in two minutes on 2 cores
    "data.train": 4000,
    "data.validation": 100,
    "train.steps": 500,
    "train.bc_steps": 250,
    "optimizer.warmup": 20,
    "log_every": 1,
    "evaluate.every": 60,
    "evaluate.examples": 100,
    "evaluate.rows": 100,
    "checkpoint.every": 25,
}
SHORT = (
    JOB
    | SMALL
    | {
        "train.steps": 240,
        "train.bc_steps": 100,
        "train.batch_size": 32,
        "rollout.batch_size": 32,
        "checkpoint.every": 15,
    }
)
LAST = ("results", "end")  # moments after which a run may be done before it hears
PATIENCE = 3  # sessions without a new checkpoint, before one is let go until it has saved
LOOK = 0.003  # seconds between looks
LEFT, LEAVE = 75, 30.0  # exit code of a run that was asked to leave, and the seconds it has


class Session(NamedTuple):
    """One process, from its start to its end.

    Attributes:
      aim, hit: the moment waited for, and that at which it was killed; hit None if it ended itself.
      again: steps that have to be done again.
      left: seconds from the signal to the end.
      progress: whether there is a new checkpoint.
      seconds: it took.
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
      devices: simulated.
      asked: the signal.
    """

    def __init__(self, folder: Path, job: dict, devices: int, asked: signal.Signals):
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
            # A call returns when it is done: where the stack stands is what is being done.
            "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self.signal, self.polite = asked, asked != signal.SIGKILL
        self.steps, self.every = job["train.steps"], job["checkpoint.every"]
        self.horizon, self.limit = 0.0, 3600.0  # seconds: the longest wait, the longest session

    def start(self, run: Path) -> Child:
        """The job in its folder, going on with what is there."""
        beside = self.folder / f"{run.name}-process"
        beside.mkdir(parents=True, exist_ok=True)
        # Who is asked to leave may finish a compilation, which would hide how long all else takes.
        place = self.folder if self.polite else beside
        cache = {"JAX_COMPILATION_CACHE_DIR": str(place / "compiled")}
        return Child(beside, [*self._flags, f"--workdir={run}"], self._env | cache)

    def session(self, run: Path, aim: str, ripe: Callable[[float, str, bool], bool]) -> Session:
        """Runs until `ripe(seconds, moment, progress)`, and kills; or until it ends by itself.

        Raises:
          RuntimeError: it failed, or did not end.
        """
        before, told, began = saved(run), touched(run), time.monotonic()
        child, hit, sent = self.start(run), None, math.inf
        while child.process.poll() is None and time.monotonic() - began < self.limit:
            now = moment(child.note(), run)
            if ripe(time.monotonic() - began, now, saved(run) > before):
                child.process.send_signal(self.signal)
                hit, sent = now, time.monotonic()
                break
            time.sleep(LOOK)
        code = ended(child, LEAVE)
        left = max(time.monotonic() - sent, 0.0)
        if code == 0 and (hit in LAST or not self.polite):
            hit = None  # it was done before
        if code not in self.codes(hit):
            raise RuntimeError(f"{run.name}, {hit}: exit code {code}\n{child.last_words()}")
        again = max(recorded(run) - saved(run), 0) if hit and touched(run) != told else 0
        if again and code == LEFT:
            raise RuntimeError(f"{run.name}, {hit}: left, with {again} steps to do again")
        seconds = time.monotonic() - began
        return Session(aim, hit, again, left, saved(run) > before, seconds, code)

    def codes(self, hit: str | None) -> set[int]:
        """Exit codes that may come of a signal at a moment; of none, 0."""
        if hit is None:
            return {0}
        if not self.polite:
            return {-self.signal}
        # While Python starts, or takes itself down, nothing listens yet or any more.
        return {LEFT, -self.signal} if hit in ("start", "end") else {LEFT}

    def forget(self, run: Path) -> None:
        """Removes what was saved on leaving, which the run that was left alone has not."""
        due = {*range(self.every, self.steps, self.every), self.steps}
        for folder in (run / "checkpoints").iterdir():
            if int(folder.name) not in due:
                shutil.rmtree(folder)

    def uninterrupted(self) -> Path:
        """The folder of a run that is left alone; from it is known how long one takes."""
        run = self.folder / "uninterrupted"
        seconds = self.session(run, NEVER, lambda *_: False).seconds
        self.horizon, self.limit = seconds / 3, 60 + 10 * seconds
        return run

    def killed(self, run: Path, kills: int, deck: Iterator[str]) -> Iterator[Session]:
        """Sessions of one run until it is done, with at most `kills` of them killed."""
        shutil.rmtree(self.folder / "data")  # made anew: the first kill falls there
        aim, stuck, late = "data", 0, iter(random.sample(LATE, 2))
        while True:
            aim = aim if kills else NEVER
            done = self.session(run, aim, Trigger(aim, self.horizon, stuck >= PATIENCE))
            yield done
            if done.hit is None:
                return
            kills, stuck = kills - 1, 0 if done.progress else stuck + 1
            trained = saved(run) == self.steps or kills == 1
            aim = next(late, NEVER) if trained else next(deck)
            if aim == "restore" and not saved(run):  # there is nothing to restore
                aim = ANYWHERE


def ended(child: Child, seconds: float) -> int:
    """The exit code of a process, which is killed if it takes longer."""
    try:
        return child.process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.process.kill()
        return child.process.wait()


def shuffled() -> Iterator[str]:
    """All moments in random order, then all again."""
    while True:
        yield from random.sample(AIMS, len(AIMS))


def test(bench: Bench, kills: int) -> dict:
    """Kills until all kills are spent, comparing each run that is done; returns what is reported."""
    run, began = bench.uninterrupted(), time.monotonic()
    print(f"uninterrupted: {bench.horizon * 3:.0f} s", flush=True)
    sessions, verdicts, unfinished, deck = [], {}, 0, shuffled()
    while (left := kills - sum(s.hit is not None for s in sessions)) > 0:
        victim = bench.folder / f"killed-{len(verdicts) + 1}"
        for number, session in enumerate(bench.killed(victim, left, deck), 1):
            sessions.append(session)
            print(f"{victim.name}, session {number}: {told(session)}", flush=True)
        if bench.polite:
            bench.forget(victim)
        verdicts[victim.name] = same_run.differences(victim, run)
        print(f"{victim.name}: {'; '.join(verdicts[victim.name]) or 'equal'}", flush=True)
        unfinished += len(list((bench.folder / "data").rglob("incomplete.*")))
    return {
        "kills": Counter(s.hit for s in sessions if s.hit),
        "codes": Counter(s.code for s in sessions if s.hit),
        "sessions": [s._asdict() for s in sessions],
        "differences": verdicts,
        "unfinished_data": unfinished,
        "steps_again": sum(s.again for s in sessions),
        "arrays": len(same_run.arrays(run)),
        "left": max((s.left for s in sessions if s.hit), default=0.0),
        "seconds": time.monotonic() - began,
    }


def told(session: Session) -> str:
    """One session in a line."""
    if session.hit is None:
        return f"aimed at {session.aim}, ended by itself after {session.seconds:.0f} s"
    return (
        f"aimed at {session.aim}, hit at {session.hit} after {session.seconds:.1f} s; "
        f"{session.again} steps to do again"
    )


def table(found: dict) -> str:
    """What is reported, for a person."""
    rows = [f"  {name:<12} {count:4}" for name, count in found["kills"].most_common()]
    wrong = [f"{run}: {line}" for run, lines in found["differences"].items() for line in lines]
    kills, runs = found["kills"].total(), len(found["differences"])
    return "\n".join(
        [
            f"{kills} times SIG{SIGNAL.value}, by the moment hit:",
            *rows,
            f"each left within {found['left']:.1f} s, with exit code "
            + ", ".join(f"{code} ({count})" for code, count in found["codes"].most_common()),
            f"{len(found['sessions'])} sessions of {runs} runs in {found['seconds']:.0f} s; "
            f"{found['steps_again']} steps done again; {found['unfinished_data']} unfinished folders "
            "left in data.dir",
            f"{runs} runs against the uninterrupted one ({found['arrays']} arrays, metrics, traces, "
            f"summary, TensorBoard): {'DIFFERENT' if wrong else 'equal, bit for bit'}",
            *wrong,
        ]
    )


def main(argv: list[str]) -> int:
    """Runs the test and prints its table."""
    logging.set_verbosity(logging.ERROR)
    random.seed(SEED.value)
    try:
        folder = new_folder("crash-test", FOLDER.value)
    except FileExistsError as error:
        print(error, file=sys.stderr)
        return 2
    asked = signal.Signals[f"SIG{SIGNAL.value}"]
    job = SHORT if SMALLER.value else JOB
    if asked != signal.SIGKILL:
        job = job | {"checkpoint.keep": 1000}  # each leaves one more
    bench = Bench(folder, job, DEVICES.value, asked)
    try:
        found = test(bench, KILLS.value)
    except RuntimeError as failure:
        print(failure, file=sys.stderr)
        return 1
    (folder / "result.json").write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))
    return int(any(found["differences"].values()))


if __name__ == "__main__":
    app.run(main)
