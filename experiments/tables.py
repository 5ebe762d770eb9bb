"""Prints the tables of docs/results.md from the rows of a grid.

    python -m experiments.tables --grid=NAME

One line for each setting: accuracy by way of decoding, over all seeds, with an interval over seeds and
questions (two-way bootstrap). Then the paired difference of each setting to the first, by seed and
question. A difference is claimed only where its interval excludes zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from experiments.cells import read_rows, unpack
from experiments.grids import GRIDS
from sequencematch.evaluate.intervals import accuracy_interval, paired_difference

GRID = flags.DEFINE_enum("grid", None, list(GRIDS), "The grid.", required=True)
CHOICES = ("greedy", "unedited", "sampled")

Rows = Mapping[int, Mapping[str, Any]]  # by seed


def by_setting(rows: Sequence[Mapping[str, Any]]) -> dict[str, Rows]:
    """The rows of each setting, in the order of the grid's first seed."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        found.setdefault(row["name"], {})[row["seed"]] = row
    return found


def right(rows: Rows, seeds: Sequence[int], choice: str) -> np.ndarray:
    """bool[S, N]: whether the run of each seed answered each question rightly."""
    figures = [rows[seed]["figures"] for seed in seeds]
    # A method without edits has one greedy answer, edited or not.
    chosen = [f.get(choice, f["greedy"]) for f in figures]
    return np.stack([unpack(f["questions"], f["n"]) for f in chosen])


def accuracy_cells(rows: Rows) -> list[str]:
    """Accuracy and its interval, for each way of decoding."""
    cells = []
    for choice in CHOICES:
        table = right(rows, list(rows), choice)
        low, high = accuracy_interval(table)
        cells.append(f"{table.mean():.1%} [{low:.1%}, {high:.1%}]")
    return cells


def difference_cells(rows: Rows, base: Rows) -> list[str]:
    """The paired difference to another setting in points, for each way of decoding."""
    seeds = [seed for seed in rows if seed in base]
    cells = []
    for choice in CHOICES:
        found = paired_difference(right(rows, seeds, choice), right(base, seeds, choice))
        points = [f"{100 * x:+.1f}" for x in (found.mean, found.low, found.high)]
        cells.append(f"{points[0]} [{points[1]}, {points[2]}], p = {found.p_value:.2g}")
    return cells


def print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    for line in (header, ["---"] * len(header), *lines):
        print(f"| {' | '.join(line)} |")


def main(argv: list[str]) -> None:
    """Prints both tables."""
    settings = by_setting(read_rows(GRID.value))
    lines = []
    for name, rows in settings.items():
        first, n = next(iter(rows.values())), len(rows)
        seconds = sum(row["seconds"]["train"] for row in rows.values()) / n
        cost = [f"{first['steps']:,}", f"{first['tokens'] / 1e6:.1f} M", f"{seconds:.0f} s"]
        lines.append([name, str(n), *accuracy_cells(rows), *cost])
    print_table(["setting", "seeds", *CHOICES, "steps", "tokens", "seconds"], lines)
    base, *others = settings
    print(f"\nAgainst {base}, in points:\n")
    print_table(
        ["setting", *CHOICES],
        [[name, *difference_cells(settings[name], settings[base])] for name in others],
    )


if __name__ == "__main__":
    app.run(main)
