"""The grids of runs behind docs/results.md, as data.

A grid is a list of cells: all settings of one seed, then the next (`order.py` says which are run next).
What a grid chooses is written into frozen.json by hand, with the reason, and later grids read it there.
"""

from collections.abc import Callable

from experiments.arithmetic_grids import (
    MANY,
    PAPER,
    no_edits,
    noise_levels,
    noises,
    objectives,
    optimizers,
    table,
)
from experiments.cell import Cell
from experiments.smollm2_grids import smollm2, smollm2_alphas, smollm2_entropies
from experiments.text_grids import texts, texts_smollm2

TEXT_GRIDS = ("texts", "texts_smollm2")  # whose rows have figures of texts

GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "bc": lambda: optimizers("bc"),
    "mle": lambda: optimizers("mle"),
    "objectives": objectives,
    "table_5000": lambda: table(PAPER, range(3, 8), equal_tokens=True),
    "no_edits": lambda: no_edits(range(3, 8)),
    "noises": lambda: noises(range(3, 6)),
    "noise_levels": lambda: noise_levels(range(3, 6)),
    "smollm2_entropies": smollm2_entropies,
    "smollm2_alphas": smollm2_alphas,
    "smollm2": smollm2,
    "texts": texts,
    "texts_smollm2": texts_smollm2,
    "table_20000": lambda: table(MANY, range(3, 6), equal_tokens=False),
    # With twins of test questions in train, as the paper and earlier versions had it.
    "table_twins": lambda: table(PAPER | {"data.split": "prompt"}, (3, 4), equal_tokens=False),
}
