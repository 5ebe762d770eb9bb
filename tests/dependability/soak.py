"""Trains for an hour and checks that nothing grows: memory, file handles, threads, compilations, files.

    python -m tests.dependability.soak [--minutes=60] [--folder=DIR]
    python -m tests.dependability.soak --judge=DIR    # evaluates an earlier measurement again

The real main job in a process of its own, small, so that everything that could leak happens many times:
it validates and samples all the time, and saves every few minutes, as long runs do. `growth` says which
QUANTITIES may not grow, and how that is decided. What orbax leaves behind at each save (see bare_saves)
counts like everything else. The run has SEQUENCEMATCH_MALLOC_ARENAS=2: with more arenas, malloc's
fragments grow (see sequencematch/storage/allocator.py).

Writes samples.json and long_run.svg into the folder. The exit code is 1 if a quantity is not shown
not to grow, if there were fewer than 17 saves after the warm-up, or if the job does not end with
exit code 75 when it is asked to stop.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import psutil
from absl import app, flags

from sequencematch.storage import allocator
from sequencematch.storage.provenance import revision
from tests.dependability.growth import QUANTITIES, WARM_UP, draw, row
from tests.dependability.watched import (
    SMALL,
    Child,
    last_recorded_step,
    last_saved_step,
    new_folder,
)

SHORTEST = 59.0  # minutes of training that suffice
MINUTES = flags.DEFINE_float("minutes", 60.0, "How long to train.", lower_bound=SHORTEST)
FOLDER = flags.DEFINE_string("folder", None, "Where the run goes: runs/long-run-<now>.")
JUDGE = flags.DEFINE_string("judge", None, "Folder of an earlier measurement; nothing is run.")
INTERVAL = 1.0  # seconds between samples: often enough to see memory dip for a moment
INTERRUPTED = 75  # exit code of a run that was asked to stop and has saved
SAVES = 17  # needed after the warm-up, to measure what a save leaves behind
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", allocator.VARIABLE: "2"}
JOB = SMALL | {
    "data.train": 2000,
    "data.validation": 64,
    "data.test": 64,
    "train.steps": 10_000_000,
    "train.bc_steps": 200,
    "train.batch_size": 16,
    "rollout.batch_size": 16,
    "log_every": 10,
    "evaluate.every": 100,
    "evaluate.examples": 64,
    "evaluate.rows": 64,
    "checkpoint.every": 10_000,
}


def measure(child: Child, run: Path, began: float) -> dict[str, float]:
    """A sample of all quantities, and the minutes since the beginning."""
    process, note = psutil.Process(child.process.pid), child.note()
    logs = [run / "metrics.jsonl", *run.glob("tensorboard/*")]
    return {
        "minutes": (time.monotonic() - began) / 60,
        "saved": last_saved_step(run),
        "memory": process.memory_info().rss / 1e6,
        "handles": process.num_fds(),
        "threads": process.num_threads(),
        "compilations": note.compilations,
        "blocks": note.blocks / 1e3,
        **({} if note.allocated is None else {"allocated": note.allocated / 1e6}),
        "checkpoints": sum(len(files) for *_, files in os.walk(run / "checkpoints")),
        "metrics": sum(path.stat().st_size for path in logs if path.exists()) / 1e6,
    }


def watch(folder: Path, minutes: float) -> None:
    """Trains for a time and writes samples.json."""
    # The revision is read now: a commit during the run would change it.
    run, began, samples, code_of = folder / "run", time.monotonic(), [], revision()
    flags = ["--config=configs/arithmetic.py", f"--workdir={run.absolute()}"]
    flags += [f"--config.{key}={value}" for key, value in JOB.items()]
    folder.mkdir(parents=True)
    print(f"{allocator.VARIABLE}={ENVIRONMENT[allocator.VARIABLE]} is set for the run", flush=True)
    child = Child(folder.absolute(), flags, os.environ | ENVIRONMENT)
    while child.process.poll() is None and time.monotonic() - began < 60 * minutes:
        time.sleep(INTERVAL)
        with contextlib.suppress(psutil.Error):  # the process has just ended
            samples.append(measure(child, run, began))
    code = stop(child.process)
    if code != INTERRUPTED:
        print(f"exit code {code}\n{child.last_words()}", file=sys.stderr)
    found = {
        "exit_code": code,
        "steps": last_recorded_step(run),
        "revision": code_of,
        "samples": samples,
    }
    (folder / "samples.json").write_text(json.dumps(found) + "\n")


def stop(process: subprocess.Popen) -> int:
    """Asks a process to stop, and kills it if it does not within a minute; returns its exit code."""
    process.send_signal(signal.SIGTERM)  # does nothing if the process has ended
    try:
        return process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def evaluate(folder: Path) -> int:
    """Prints the table of a measurement and draws it; returns the exit code."""
    found = json.loads((folder / "samples.json").read_text())
    samples = found["samples"]
    if not samples or samples[-1]["minutes"] < SHORTEST:
        print(f"it ended with {found['exit_code']} before {SHORTEST:.0f} minutes", file=sys.stderr)
        return 1
    rows = [row(name, samples) for name in QUANTITIES]
    saves = len({s["saved"] for s in samples if s["minutes"] > WARM_UP}) - 1
    print(
        f"{found['steps']:,} steps of {found['revision']}, {saves} saves after {WARM_UP:.0f} minutes, "
        f"ended with {found['exit_code']}"
    )
    print(f"{'':<36}{'first':>10}{'median':>10}{'last':>10}{'per hour':>10}{'+-':>10}")
    print("\n".join(line for line, _ in rows))
    with matplotlib.rc_context({"svg.hashsalt": "long_run", "font.size": 9}):
        picture = folder / "long_run.svg"
        draw(samples).savefig(picture, metadata={"Date": None}, facecolor="white")
    print(f"drawn in {picture}")
    problems = {
        "a quantity is not shown not to grow": any(problem for _, problem in rows),
        f"fewer than {SAVES} saves are too few: train for longer, --minutes=M": saves < SAVES,
        "compilations were not counted": not samples[-1]["compilations"],
        f"the exit code is not {INTERRUPTED}": found["exit_code"] != INTERRUPTED,
    }
    for problem in (problem for problem, holds in problems.items() if holds):
        print(f"fails: {problem}", file=sys.stderr)
    return int(any(problems.values()))


def main(argv: list[str]) -> int:
    """Measures, unless an earlier measurement is named, and evaluates the measurement."""
    if JUDGE.value:
        return evaluate(Path(JUDGE.value))
    try:
        folder = new_folder("long-run", FOLDER.value)
    except FileExistsError as error:
        print(error, file=sys.stderr)
        return 2
    watch(folder, MINUTES.value)
    return evaluate(folder)


if __name__ == "__main__":
    app.run(main)
