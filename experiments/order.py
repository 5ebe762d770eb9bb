"""Which cells of a grid are run next: those of tables all, those that choose by successive halving."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.cell import Cell


def check_rows(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], grid: str) -> None:
    """Raises ValueError for a row that was made with other settings than its cell has."""
    known = {(cell.name, cell.seed): json.loads(json.dumps(cell._asdict())) for cell in cells}
    for found in rows:
        cell = known.get((found["name"], found["seed"]), {})
        had = Cell._field_defaults | found  # older rows lack some keys
        if other := [each for key in cell for each in differences(key, had[key], cell[key])]:
            raise ValueError(
                f"results/{grid}.jsonl: the row of {found['name']}, seed {found['seed']} was made with "
                f"{', '.join(other)}: move the row away, or rename its setting"
            )


def differences(name: str, was: Any, now: Any) -> list[str]:
    """What of a setting has changed; of a mapping each key."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys((*was, *now))
        return [each for key in keys for each in differences(key, was.get(key), now.get(key))]
    return [] if was == now else [f"{name}={was!r}, and the grid has {now!r}"]


def next_cells(cells: Sequence[Cell], accuracies: Mapping[tuple[str, int], float]) -> list[Cell]:
    """The cells without a row; empty if the grid is done.

    Where settings are chosen, those of the first seed that has such. It is by successive halving
    (Jamieson & Talwalkar, AISTATS 2016): the next seed has the better half of each method's settings,
    by their mean accuracy so far.

    Args:
      cells: of a grid.
      accuracies: greedy accuracy of the rows that are done, by name and seed.
    """
    if all(cell.split == "test" for cell in cells):
        return [cell for cell in cells if (cell.name, cell.seed) not in accuracies]
    seeds, names = list(dict.fromkeys(cell.seed for cell in cells)), {cell.name for cell in cells}
    totals: Counter[str] = Counter()
    for seed in seeds:
        of_seed = [cell for cell in cells if cell.seed == seed and cell.name in names]
        missing = [cell for cell in of_seed if (cell.name, seed) not in accuracies]
        if missing:
            return missing
        totals.update({cell.name: accuracies[cell.name, seed] for cell in of_seed})
        names = better_half(of_seed, totals)
    return []


def better_half(cells: Sequence[Cell], totals: Mapping[str, float]) -> set[str]:
    """The names of the better half of each method's cells, by total accuracy."""
    names = set()
    for method in {cell.method for cell in cells}:
        mine = [cell.name for cell in cells if cell.method == method]
        names |= set(sorted(mine, key=totals.__getitem__, reverse=True)[: (len(mine) + 1) // 2])
    return names
