"""An hour of training without growth: memory, file handles, threads, compilations, files.

    python -m experiments.long_run [--minutes=60] [--folder=DIR]
    python -m experiments.long_run --judge=DIR    # what was measured there, again

The real main job in a process of its own: small, looking and sampling all the time so that what could
leak does so many times, and saving every few minutes, as long runs do. What grows, what does not, and
what has to be shown not to, say `growth` and its QUANTITIES: all but resident memory, too noisy for
that: what is allocated, and Python's objects, tell exactly. What orbax leaves at each save (see
bare_saves) counts like all else.

Writes samples.json in the folder and docs/long_run.svg. Exit code 1 if anything grows or is not shown
not to, or if the job does not end with exit code 75 when it is told to stop.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import matplotlib
import psutil
from absl import app, flags

from experiments.growth import QUANTITIES, draw, row
from experiments.watched import SMALL, Child, new_folder
from sequencematch.provenance import revision

MINUTES = flags.DEFINE_float("minutes", 60.0, "How long to train.", lower_bound=8.0)
FOLDER = flags.DEFINE_string("folder", None, "Where the run goes: runs/long-run-<now>.")
JUDGE = flags.DEFINE_string("judge", None, "Folder of an earlier measurement; nothing is run.")
PICTURE = Path("docs/long_run.svg")
EVERY = 1.0  # seconds between samples: memory often dips for a moment only
INTERRUPTED = 75  # stopped when told to, with all saved
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
        "memory": process.memory_info().rss / 1e6,
        "handles": process.num_fds(),
        "threads": process.num_threads(),
        "compilations": note.compilations,
        "blocks": note.blocks / 1e3,
        **({} if note.allocated is None else {"allocated": note.allocated / 1e6}),
        "checkpoints": sum(len(files) for *_, files in os.walk(run / "checkpoints")),
        "metrics": sum(path.stat().st_size for path in logs if path.exists()) / 1e6,
    }


def watch(folder: Path, minutes: float) -> dict:
    """Trains so long; returns the samples, the exit code, and the steps."""
    run, began, samples, code_of = folder / "run", time.monotonic(), [], revision()
    flags = ["--config=configs/arithmetic.py", f"--workdir={run.absolute()}"]
    flags += [f"--config.{key}={value}" for key, value in JOB.items()]
    folder.mkdir(parents=True)
    child = Child(folder.absolute(), flags, os.environ | {"JAX_PLATFORMS": "cpu"})
    while child.process.poll() is None and time.monotonic() - began < 60 * minutes:
        time.sleep(EVERY)
        with contextlib.suppress(psutil.Error):  # it has just ended
            samples.append(measure(child, run, began))
    child.process.send_signal(signal.SIGTERM)  # nothing happens to one that has ended
    code = child.process.wait(timeout=60)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    if code != INTERRUPTED:
        print(f"exit code {code}\n{child.last_words()}", file=sys.stderr)
    steps = json.loads(lines[-1])["step"]
    return {"exit_code": code, "steps": steps, "revision": code_of, "samples": samples}


def judged(found: dict) -> int:
    """Prints the table of what was measured and draws it; the exit code."""
    samples = found["samples"]
    rows = [row(name, samples) for name in QUANTITIES if name in samples[-1]]
    print(f"{found['steps']:,} steps of {found.get('revision')}, ended with {found['exit_code']}")
    print(f"{'':<36}{'first':>10}{'median':>10}{'last':>10}{'per hour':>10}{'+-':>10}")
    print("\n".join(line for line, _ in rows))
    with matplotlib.rc_context({"svg.hashsalt": "long_run", "font.size": 9}):
        draw(samples).savefig(PICTURE, metadata={"Date": None}, facecolor="white")
    return int(any(said for _, said in rows) or found["exit_code"] != INTERRUPTED)


def main(argv: list[str]) -> int:
    """Measures, unless an earlier measurement is named, and judges."""
    if JUDGE.value:
        return judged(json.loads((Path(JUDGE.value) / "samples.json").read_text()))
    try:
        folder = new_folder("long-run", FOLDER.value)
    except FileExistsError as error:
        print(error, file=sys.stderr)
        return 2
    found = watch(folder, MINUTES.value)
    (folder / "samples.json").write_text(json.dumps(found) + "\n")
    return judged(found)


if __name__ == "__main__":
    app.run(main)
