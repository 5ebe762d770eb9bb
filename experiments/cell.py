"""One run of a grid, and what grids have chosen."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SEEDS = (0, 1, 2)  # for choices, and for texts; arithmetic's tables have their own

# Rows that sequencematch takes in each matching step, by configuration: its batch, as many samples, and
# its share of a refresh, such as 64 samples every 10 steps. With as many others have equal tokens.
AS_MANY_ROWS = {"arithmetic": 64 + 64 + 6, "pretrained": 17, "text": 67, "text_pretrained": 16}


class Cell(NamedTuple):
    """One run of a grid.

    Attributes:
      name: of the setting; the same for all seeds.
      method: a key of METHODS.
      seed: of everything but the questions, which are the same for all runs.
      split: whose questions are answered at the end, "validation" or "test".
      changes: dotted keys that differ from the configuration.
      last_changes: the same, from the end of behavioural cloning on.
      config: name of a file in configs/.
    """

    name: str
    method: str
    seed: int
    split: str
    changes: Mapping[str, Any]
    last_changes: Mapping[str, Any] = {}
    config: str = "arithmetic"


def frozen(name: str, grid: str) -> dict[str, Any]:
    """What frozen.json has under a name, chosen on the rows of a grid.

    Raises:
      ValueError: nothing yet.
    """
    chosen = json.loads((Path(__file__).parent / "frozen.json").read_text())
    if name not in chosen:
        raise ValueError(
            f"experiments/frozen.json has no {name!r}: run --grid={grid} first, and write there what "
            "it chooses, with the reason in docs/results.md"
        )
    return chosen[name]
