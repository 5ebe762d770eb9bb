"""Runs a grid of small experiments; cells that have a row of results already are skipped.

    python -m experiments.run --grid=NAME

Rows are appended to experiments/results/NAME.jsonl, each when its cell is done. A killed grid goes on
where it stopped. Several processes may share a grid: each takes a cell that no other has taken. Small
networks use one core better than two: `taskset -c 0` and `taskset -c 1` before two such commands did
1.3 times the steps of one command on both cores.
"""

import fcntl
import json
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from absl import app, flags, logging

from experiments import texts
from experiments.cell import Cell
from experiments.cells import (
    RESULTS,
    RUNS,
    code_revision,
    folder_of,
    read_rows,
    row,
    waits_for_stem,
)
from experiments.figures import Figures
from experiments.grids import GRIDS, TEXT_GRIDS
from experiments.order import check_rows, next_cells

GRID = flags.DEFINE_enum("grid", None, list(GRIDS), "The grid.", required=True)


@contextmanager
def claim(grid: str, cell: Cell) -> Iterator[bool]:
    """Takes a cell while its row is made; False if another process has it. Ends with the process."""
    RUNS.mkdir(parents=True, exist_ok=True)
    name = f"{grid}-{cell.seed}-{zlib.crc32(cell.name.encode()):08x}.lock"
    with open(RUNS / name, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def missing_cells(grid: str) -> list[Cell]:
    """What may be run now.

    Raises:
      ValueError: a row was made with other settings than the grid has now.
    """
    cells, rows = GRIDS[grid](), read_rows(grid)
    check_rows(cells, rows, grid)
    accuracies = {(r["name"], r["seed"]): headline(r["figures"]) for r in rows}
    return next_cells(cells, accuracies)


def run_one(grid: str, cells: Sequence[Cell]) -> bool:
    """Makes the row of the first of some cells that no other process has; False if there is none."""
    # Those last whose stem another process trains: it would be waited for.
    for cell in sorted(cells, key=waits_for_stem):
        with claim(grid, cell) as is_ours:
            # Another process may have made its row since `cells` were read.
            if is_ours and cell in missing_cells(grid):
                append(grid, row(cell))
                Figures(folder_of(cell)).forget()
                return True
    return False


def append(grid: str, found: dict) -> None:
    """Writes a row, and says what is in it."""
    with open(RESULTS / f"{grid}.jsonl", "a") as file:
        file.write(json.dumps(found) + "\n")
    told = []
    for choice, figures in found["figures"].items():
        if "mauve" in figures:
            told.append(f"{choice} MAUVE {figures['mauve']:.3f}")
        elif "questions" in figures:
            told.append(f"{choice} {figures['accuracy']:.1%}")
    seconds = sum(found["seconds"].values())
    print(f"{found['name']}, seed {found['seed']}: {', '.join(told)}; {seconds:.0f} s", flush=True)


def headline(figures: Mapping[str, Any]) -> float:
    """What settings are chosen by: greedy accuracy; of texts MAUVE of those that are sampled."""
    of_texts = figures["sampled"].get("mauve")
    return figures["greedy"]["accuracy"] if of_texts is None else of_texts


def main(argv: list[str]) -> int | None:
    """Runs the cells that are missing."""
    logging.set_verbosity(logging.ERROR)
    # Cells differ in numbers that are arguments of their programs: few are compiled.
    jax.config.update("jax_compilation_cache_dir", str(RUNS.parent.absolute() / ".jax_cache"))
    code_revision()  # now: what is committed later is not what runs
    try:
        if GRID.value in TEXT_GRIDS:
            texts.reader()  # what is missing is told before any work
        while cells := missing_cells(GRID.value):
            if not run_one(GRID.value, cells):
                time.sleep(10)  # the last cells are with other processes
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return None


if __name__ == "__main__":
    app.run(main)
