"""Runs a grid of small experiments; cells that have a row of results already are skipped.

    python -m experiments.run --grid=NAME [--seed=0] [--shard=0/2]

Rows are appended to experiments/results/NAME.jsonl, each when its cell is done. A killed grid goes on
where it stopped. Several processes may share one: `--shard=I/N`.
"""

import json

from absl import app, flags, logging

from experiments.cells import RESULTS, read_rows, row
from experiments.grids import GRIDS

GRID = flags.DEFINE_enum("grid", None, list(GRIDS), "The grid.", required=True)
SHARD = flags.DEFINE_string("shard", "0/1", "I/N: every N-th cell, from cell I on.")
SEEDS = flags.DEFINE_multi_integer("seed", None, "Only these seeds.")


def main(argv: list[str]) -> None:
    """Runs the cells that are missing."""
    logging.set_verbosity(logging.ERROR)
    grid, (index, count) = GRID.value, map(int, SHARD.value.split("/"))
    cells = [cell for cell in GRIDS[grid]() if not SEEDS.value or cell.seed in SEEDS.value]
    for number, cell in list(enumerate(cells))[index::count]:
        done = {(r["name"], r["seed"]): r for r in read_rows(grid)}
        if (cell.name, cell.seed) in done:
            continue
        found = row(cell)
        with open(RESULTS / f"{grid}.jsonl", "a") as file:
            file.write(json.dumps(found) + "\n")
        accuracies = [
            f"{choice} {found['figures'][choice]['accuracy']:.1%}"
            for choice in ("greedy", "unedited", "sampled")
            if choice in found["figures"]
        ]
        print(
            f"{number + 1} of {len(cells)}: {cell.name}, seed {cell.seed}: {', '.join(accuracies)}; "
            f"{sum(found['seconds'].values()):.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
