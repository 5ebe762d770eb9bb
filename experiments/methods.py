"""Accuracy of each method on arithmetic, over several seeds, at equal steps and at equal tokens.

    python -m experiments.methods [--out=runs/methods] [--seeds=3]

Makes the runs that are missing, one after another, and prints the table of the README. A SequenceMatch
step also takes the policy's samples through the network, in training and when they are drawn. At equal
tokens the baselines take more steps, until as many tokens have passed through the network.
"""

import json
import subprocess
import sys
from pathlib import Path

from absl import app, flags

from sequencematch.evaluate.intervals import wilson

OUT = flags.DEFINE_string("out", "runs/methods", "Folder of the runs.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each row.")
CONFIG = "configs/arithmetic.py"


def run_or_read(label: str, method: str, seed: int, steps: int | None = None) -> dict:
    """Makes a run unless it is done already; returns its summary."""
    folder = Path(OUT.value) / f"{label}-{seed}"
    if not (folder / "summary.json").is_file():
        command = [
            *(sys.executable, "-m", "sequencematch.main", f"--config={CONFIG}:{method}"),
            *(f"--workdir={folder}", f"--config.seed={seed}"),
            *([f"--config.train.steps={steps}"] if steps else []),
            *(["--resume"] if folder.exists() else []),  # it was interrupted
        ]
        subprocess.run(command, check=True)
    return json.loads((folder / "summary.json").read_text())


def equal_tokens(run: dict) -> int:
    """The steps in which a baseline takes as many tokens through the network as `run` did."""
    config = run["config"]
    slots = config["prompt_slots"] + config["max_actions"]
    step = config["train"]["batch_size"] * slots
    return round((run["tokens"] + run["sampled_tokens"]) / step)


def row(name: str, runs: list[dict]) -> str:
    """A row of the table: accuracy over all seeds with its interval, each seed's, and the cost."""
    cells = [name, f"{runs[0]['steps']:,}", f"{tokens(runs[0]) / 1e6:.1f} M"]
    for choice in ("greedy", "sampled"):
        tests = [run["test"][choice] for run in runs]
        right, n = sum(t["right"] for t in tests), sum(t["n"] for t in tests)
        low, high = wilson(right, n)
        each = ", ".join(f"{100 * t['accuracy']:.1f}" for t in tests)
        cells.append(f"**{right / n:.1%}** [{low:.1%}, {high:.1%}] ({each})")
    cells.append(f"{sum(run['seconds']['total'] for run in runs) / len(runs):.0f} s")
    return "| " + " | ".join(cells) + " |"


def tokens(run: dict) -> int:
    """All slots that passed through the network, in training and in sampling."""
    return run["tokens"] + run["sampled_tokens"]


def main(argv: list[str]) -> None:
    """Makes the missing runs and prints the table."""
    seeds = range(SEEDS.value)
    match = [run_or_read("sequencematch", "sequencematch", seed) for seed in seeds]
    table = {"sequencematch": match}
    for method in ("mle", "bc"):
        table[f"{method}, equal steps"] = [run_or_read(method, method, s) for s in seeds]
    for method in ("mle", "bc"):
        steps = equal_tokens(match[0])
        runs = [run_or_read(f"{method}-tokens", method, s, steps) for s in seeds]
        table[f"{method}, equal tokens"] = runs
    print("| method | steps | tokens | greedy | sampled | time each |")
    print("|---|---|---|---|---|---|")
    for name, runs in table.items():
        print(row(name, runs))


if __name__ == "__main__":
    app.run(main)
