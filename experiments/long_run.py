"""An hour of training without growth: memory, file handles, threads, compilations, files.

    python -m experiments.long_run [--minutes=60] [--folder=runs/long-run]

The real main job in a process of its own: small, looking and sampling all the time so that what could
leak does so many times, and saving every few minutes, as long runs do. What a save takes for a moment,
threads and files, is no growth: of each minute the minimum counts. The minima of the second half are
fitted with a line, and what rises by more than its limit, and by more than three standard errors of the
fit, grows. What orbax leaves at each save (see bare_saves) counts like all else.

Writes samples.json in the folder and docs/long_run.svg; if the samples are there, only draws. Exit code
1 if anything grows, or if the job does not end with exit code 75 when it is told to stop.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import psutil
from absl import app, flags
from matplotlib.figure import Figure
from scipy.stats import linregress

from experiments.watched import SMALL, Child

MINUTES = flags.DEFINE_float("minutes", 60.0, "How long to train.", lower_bound=0.1)
FOLDER = flags.DEFINE_string("folder", "runs/long-run", "Where the run goes.")
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


class Quantity(NamedTuple):
    """What is measured.

    Attributes:
      title, unit: for people.
      rise: how far its line may rise over the second half, in its unit or as a share of its median.
      relative: whether it is that share.
    """

    title: str
    unit: str = ""
    rise: float = 1.0
    relative: bool = False


QUANTITIES = {
    "memory": Quantity("Resident memory", "MB", 0.01, True),
    "handles": Quantity("Open files"),
    "threads": Quantity("Threads"),
    "compilations": Quantity("Compilations", rise=0.5),  # whole numbers: one more is too many
    # One checkpoint has 16 or more, by how its writers shared the work: two more is no growth.
    "checkpoints": Quantity("Files of checkpoints", rise=8.0),
    "metrics": Quantity("Metrics, one line each 10 steps", "MB", np.inf),  # grow by design
}


def measure(child: Child, run: Path, began: float) -> dict[str, float]:
    """All quantities now, and the minutes since the beginning."""
    process = psutil.Process(child.process.pid)
    logs = [run / "metrics.jsonl", *run.glob("tensorboard/*")]
    return {
        "minutes": (time.monotonic() - began) / 60,
        "memory": process.memory_info().rss / 1e6,
        "handles": process.num_fds(),
        "threads": process.num_threads(),
        "compilations": child.note().compilations,
        "checkpoints": sum(len(files) for *_, files in os.walk(run / "checkpoints")),
        "metrics": sum(path.stat().st_size for path in logs if path.exists()) / 1e6,
    }


def watch(folder: Path, minutes: float) -> dict:
    """Trains so long; returns the samples, the exit code, and the steps."""
    run, began, samples = folder / "run", time.monotonic(), []
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
    return {"exit_code": code, "steps": json.loads(lines[-1])["step"], "samples": samples}


def lows(minutes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(minute, smallest value in it) of each."""
    each = np.unique(minutes.astype(int))
    return each + 0.5, np.array([values[minutes.astype(int) == m].min() for m in each])


def judged(name: str, samples: list[dict]) -> tuple[str, bool]:
    """A row of the table, and whether the quantity grows."""
    series = {key: np.array([s[key] for s in samples]) for key in ("minutes", name)}
    minutes, values = lows(series["minutes"], series[name])
    minutes, values = minutes[len(minutes) // 2 :], values[len(values) // 2 :]
    fit = linregress(minutes, values)
    error = np.nan_to_num(fit.stderr)  # of what never changes, scipy does not know it
    span, quantity = minutes[-1] - minutes[0], QUANTITIES[name]
    limit = quantity.rise * (np.median(values) if quantity.relative else 1.0)
    grows = bool(fit.slope * span > limit and fit.slope > 3 * error)
    figures = (series[name][0], np.median(values), values[-1], 60 * fit.slope, 60 * error)
    title = f"{quantity.title} {quantity.unit}"
    cells = "".join(f"{x:10.2f}" for x in figures)
    return f"{title:<36}{cells}  {'GROWS' if grows else ''}".rstrip(), grows


def draw(samples: list[dict]) -> Figure:
    """One small picture for each quantity."""
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    minutes = [s["minutes"] for s in samples]
    for axes, (name, quantity) in zip(figure.subplots(2, 3).flat, QUANTITIES.items(), strict=True):
        axes.plot(minutes, [s[name] for s in samples], color="#4c78a8", linewidth=1)
        axes.set_title(f"{quantity.title}{quantity.unit and ', '}{quantity.unit}", fontsize=10)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("minutes of training", fontsize=10)
    return figure


def main(argv: list[str]) -> int:
    """Measures what is not there yet; prints the table and draws."""
    path = Path(FOLDER.value) / "samples.json"
    if not path.is_file():
        if path.parent.exists():
            print(f"--folder={path.parent} is there already: name another", file=sys.stderr)
            return 2
        found = watch(path.parent, MINUTES.value)
        path.write_text(json.dumps(found) + "\n")
    found = json.loads(path.read_text())
    rows = [judged(name, found["samples"]) for name in QUANTITIES]
    print(
        f"{found['steps']:,} steps, {len(found['samples'])} samples, ended with {found['exit_code']}"
    )
    print(f"{'':<36}{'first':>10}{'median':>10}{'last':>10}{'per hour':>10}{'+-':>10}")
    print("\n".join(row for row, _ in rows))
    with matplotlib.rc_context({"svg.hashsalt": "long_run", "font.size": 9}):
        draw(found["samples"]).savefig(PICTURE, metadata={"Date": None}, facecolor="white")
    return int(any(grows for _, grows in rows) or found["exit_code"] != INTERRUPTED)


if __name__ == "__main__":
    app.run(main)
