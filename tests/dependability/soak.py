"""An hour of training without growth: memory, file handles, threads, compilations, files.

    python -m tests.dependability.soak [--minutes=60] [--folder=DIR]
    python -m tests.dependability.soak --judge=DIR    # what was measured there, again

The real main job in a process of its own: small, looking and sampling all the time so that what could
leak does so many times, and saving every few minutes, as long runs do. What has to be shown not to
grow says `growth` with its QUANTITIES. What orbax leaves at each save (see bare_saves) counts like all
else.

Writes samples.json and long_run.svg in the folder. Exit code 1 if anything is not shown not to grow, if
there were fewer than 17 saves in what counts, or if the job does not end with exit code 75 when it
is told to stop.
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

from sequencematch.storage.provenance import revision
from tests.dependability.growth import QUANTITIES, SETTLED, draw, row
from tests.dependability.watched import SMALL, Child, new_folder, recorded, saved

LEAST = 59.0  # minutes that can be judged
MINUTES = flags.DEFINE_float("minutes", 60.0, "How long to train.", lower_bound=LEAST)
FOLDER = flags.DEFINE_string("folder", None, "Where the run goes: runs/long-run-<now>.")
JUDGE = flags.DEFINE_string("judge", None, "Folder of an earlier measurement; nothing is run.")
EVERY = 1.0  # seconds between samples: memory often dips for a moment only
INTERRUPTED = 75  # stopped when told to, with all saved
SAVES = 17  # that there must have been in what counts, to tell what a save leaves
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
    """All quantities now, and the minutes since the beginning."""
    process, note = psutil.Process(child.process.pid), child.note()
    logs = [run / "metrics.jsonl", *run.glob("tensorboard/*")]
    return {
        "minutes": (time.monotonic() - began) / 60,
        "saved": saved(run),
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
    """Trains so long, and writes samples.json."""
    run, began, samples, code_of = folder / "run", time.monotonic(), [], revision()
    flags = ["--config=configs/arithmetic.py", f"--workdir={run.absolute()}"]
    flags += [f"--config.{key}={value}" for key, value in JOB.items()]
    folder.mkdir(parents=True)
    child = Child(folder.absolute(), flags, os.environ | {"JAX_PLATFORMS": "cpu"})
    while child.process.poll() is None and time.monotonic() - began < 60 * minutes:
        time.sleep(EVERY)
        with contextlib.suppress(psutil.Error):  # it has just ended
            samples.append(measure(child, run, began))
    code = stopped(child.process)
    if code != INTERRUPTED:
        print(f"exit code {code}\n{child.last_words()}", file=sys.stderr)
    found = {"exit_code": code, "steps": recorded(run), "revision": code_of, "samples": samples}
    (folder / "samples.json").write_text(json.dumps(found) + "\n")


def stopped(process: subprocess.Popen) -> int:
    """Tells it to stop; its exit code, that of the kill if it does not within a minute."""
    process.send_signal(signal.SIGTERM)  # nothing happens to one that has ended
    try:
        return process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def judged(folder: Path) -> int:
    """Prints the table of what was measured and draws it; the exit code."""
    found = json.loads((folder / "samples.json").read_text())
    samples = found["samples"]
    if not samples or samples[-1]["minutes"] < LEAST:
        print(f"it ended with {found['exit_code']} before {LEAST:.0f} minutes", file=sys.stderr)
        return 1
    rows = [row(name, samples) for name in QUANTITIES]
    saves = len({s["saved"] for s in samples if s["minutes"] > SETTLED}) - 1
    print(
        f"{found['steps']:,} steps of {found['revision']}, {saves} saves after {SETTLED:.0f} minutes, "
        f"ended with {found['exit_code']}"
    )
    print(f"{'':<36}{'first':>10}{'median':>10}{'last':>10}{'per hour':>10}{'+-':>10}")
    print("\n".join(line for line, _ in rows))
    with matplotlib.rc_context({"svg.hashsalt": "long_run", "font.size": 9}):
        picture = folder / "long_run.svg"
        draw(samples).savefig(picture, metadata={"Date": None}, facecolor="white")
    print(f"drawn in {picture}")
    wanting = {
        "something is not shown not to grow": any(said for _, said in rows),
        f"fewer than {SAVES} saves are too few: train for longer, --minutes=M": saves < SAVES,
        "compilations were not counted": not samples[-1]["compilations"],
        f"the exit code is not {INTERRUPTED}": found["exit_code"] != INTERRUPTED,
    }
    for reason in (reason for reason, holds in wanting.items() if holds):
        print(f"fails: {reason}", file=sys.stderr)
    return int(any(wanting.values()))


def main(argv: list[str]) -> int:
    """Measures, unless an earlier measurement is named, and judges."""
    if JUDGE.value:
        return judged(Path(JUDGE.value))
    try:
        folder = new_folder("long-run", FOLDER.value)
    except FileExistsError as error:
        print(error, file=sys.stderr)
        return 2
    watch(folder, MINUTES.value)
    return judged(folder)


if __name__ == "__main__":
    app.run(main)
