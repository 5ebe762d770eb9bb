"""Kills the main job at random moments, resumes it, and compares it with an uninterrupted run.

    python -m tests.dependability.crash_test [--kills=50] [--devices=1] [--small]
                                             [--signal=KILL] [--folder=DIR]

The real main job in processes of its own. One run is left alone. Others are killed, a third of the
time anywhere, else aimed at a moment (watched.MOMENTS), and resumed until they are done; runs
follow each other until all kills are used up. Each run prepares its data again, and compiles its
steps again if it is killed. Then every array of every checkpoint, metrics.jsonl, traces.jsonl,
summary.json and TensorBoard's events must equal those of the uninterrupted run, apart from clocks
(same_run). The exit code is 1 if anything differs or a session fails.

With --signal=TERM or INT the job is asked to stop instead. It must save and exit with 75 within 30
seconds, and no step may be done twice; all checkpoints are kept and compared. A job that continues
as if it had not been asked fails the test, too.
"""

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator

from absl import app, flags, logging

from tests.dependability import same_run
from tests.dependability.aims import AIMS
from tests.dependability.bench import Bench, Session
from tests.dependability.watched import SMALL, new_folder

KILLS = flags.DEFINE_integer("kills", 50, "How often to kill.", lower_bound=1)
DEVICES = flags.DEFINE_integer("devices", 1, "Simulated devices.", lower_bound=1)
SMALLER = flags.DEFINE_bool("small", False, "A job of fewer and smaller steps.")
SIGNAL = flags.DEFINE_enum("signal", "KILL", ["KILL", "TERM", "INT"], "The signal to send.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the random moments.")
FOLDER = flags.DEFINE_string("folder", None, "Where the runs go: runs/crash-test-<now>.")

JOB = {  # everything the default job has, in two minutes on 2 cores
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
        "train.steps": 120,
        "train.bc_steps": 50,
        "train.batch_size": 32,
        "rollout.batch_size": 32,
        "checkpoint.every": 10,
    }
)


def draw_aims() -> Iterator[str]:
    """All aims in random order, again and again."""
    while True:
        yield from random.sample(AIMS, len(AIMS))


def run_test(bench: Bench, kills: int) -> dict:
    """Makes runs until all kills are used up, and compares each; returns the results."""
    run, began = bench.run_uninterrupted(), time.monotonic()
    print(f"uninterrupted: {bench.horizon * 3:.0f} s", flush=True)
    # All runs draw from one sequence of aims, so that together they cover every moment.
    sessions, differences, unfinished, aims = [], {}, 0, draw_aims()
    while (left := kills - sum(s.hit is not None for s in sessions)) > 0:
        victim = bench.folder / f"killed-{len(differences) + 1}"
        for number, session in enumerate(bench.kill_and_resume(victim, left, aims), 1):
            sessions.append(session)
            print(f"{victim.name}, session {number}: {describe(session)}", flush=True)
        if bench.graceful:
            bench.remove_extra_checkpoints(victim)
        differences[victim.name] = same_run.differences(victim, run)
        print(f"{victim.name}: {'; '.join(differences[victim.name]) or 'equal'}", flush=True)
        unfinished += len(list((bench.folder / "data").rglob("incomplete.*")))
    return {
        "kills": Counter(s.hit for s in sessions if s.hit),
        "codes": Counter(s.code for s in sessions if s.hit),
        "sessions": [s._asdict() for s in sessions],
        "differences": differences,
        "unfinished_data": unfinished,
        "steps_again": sum(s.again for s in sessions),
        "arrays": len(same_run.arrays(run)),
        "left": max((s.left for s in sessions if s.hit), default=0.0),
        "seconds": time.monotonic() - began,
    }


def describe(session: Session) -> str:
    """A session in one line."""
    if session.hit is None:
        return f"aimed at {session.aim}, ended by itself after {session.seconds:.0f} s"
    return (
        f"aimed at {session.aim}, hit at {session.hit} after {session.seconds:.1f} s; "
        f"{session.again} steps to do again"
    )


def table(found: dict) -> str:
    """The results for a person."""
    rows = [f"  {name:<12} {count:4}" for name, count in found["kills"].most_common()]
    wrong = [f"{run}: {line}" for run, lines in found["differences"].items() for line in lines]
    kills, runs = found["kills"].total(), len(found["differences"])
    return "\n".join(
        [
            f"{kills} times SIG{SIGNAL.value}, by the moment hit:",
            *rows,
            f"each ended within {found['left']:.1f} s, with exit code "
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
    number = signal.Signals[f"SIG{SIGNAL.value}"]
    job = SHORT if SMALLER.value else JOB
    if number != signal.SIGKILL:
        job = job | {
            "checkpoint.keep": 1000
        }  # each stop adds a checkpoint; none may push out another
    bench = Bench(folder, job, DEVICES.value, number)
    try:
        found = run_test(bench, KILLS.value)
    except RuntimeError as failure:
        print(failure, file=sys.stderr)
        return 1
    (folder / "result.json").write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))
    return int(any(found["differences"].values()))


if __name__ == "__main__":
    app.run(main)
