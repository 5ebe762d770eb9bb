"""The grids of runs behind docs/results.md, as data.

A grid is a list of cells in the order in which they are run: all settings of one seed, then the next.
Grids that choose, on validation questions, keep the better half of each method's settings with every
seed. What a grid chooses is written into frozen.json by hand, with the reason, and later grids read it
there.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

FROZEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "frozen.json").read_text())
LEARNING_RATES, WEIGHT_DECAYS = (1e-3, 2e-3, 4e-3, 8e-3), (0.1, 1.0)
SEEDS = (0, 1, 2)  # for choices; the tables have seeds of their own
ALPHAS, GAMMAS = (0.01, 0.03, 0.1, 0.3), (0.9, 0.998)
ENTROPIES = ((1.0, 2.0), (1.0, 3.0), (2.0, 4.0), (2.0, 5.0))


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


# The three splits reach equally deep into the stream of questions (data/splits.py).
PAPER = {"data.train": 5_000, "data.validation": 700, "data.test": 1_400}
MANY = {"data.train": 20_000, "data.validation": 700, "data.test": 1_400}


def optimizers(method: str) -> list[Cell]:
    """Learning rate x weight decay for a method, eight settings, on validation questions."""
    return [
        Cell(
            f"{method} lr={rate:g} decay={decay:g}",
            method,
            seed,
            "validation",
            PAPER | {"optimizer.learning_rate": rate, "optimizer.weight_decay": decay},
        )
        for seed, rate, decay in product(SEEDS, LEARNING_RATES, WEIGHT_DECAYS)
    ]


def objectives() -> list[Cell]:
    """alpha x gamma for sequencematch and le_cam, eight settings each, on validation questions."""
    return [
        Cell(
            f"{method} alpha={alpha:g} gamma={gamma:g}",
            method,
            seed,
            "validation",
            PAPER | FROZEN["bc"] | {"objective.alpha": alpha, "objective.gamma": gamma},
        )
        for seed, method, alpha, gamma in product(
            SEEDS, ("le_cam", "sequencematch"), ALPHAS, GAMMAS
        )
    ]


def table(size: Mapping[str, Any], seeds: Iterable[int], equal_tokens: bool) -> list[Cell]:
    """The methods at their chosen settings, on test questions."""
    cells = []
    for seed in seeds:
        for method in ("bc", "mle", "le_cam", "sequencematch"):
            cells.append(Cell(method, method, seed, "test", {**size, **FROZEN[method]}))
        if equal_tokens:
            # As many tokens in each step as sequencematch takes: its batch, as many samples, and
            # its share of a refresh, 64 samples every 10 steps.
            batch = {"train.batch_size": 64 + 64 + 6}
            changes = {**size, **FROZEN["bc"]}
            cells.append(Cell("bc, equal tokens", "bc", seed, "test", changes, batch))
    return cells


# SmolLM2-135M by LoRA of rank 16 on all linear maps of its blocks; every base from 2 to 16.
SMOLLM2 = {
    "data.train": 5_000,
    "data.validation": 1_000,
    "data.test": 2_000,
    "data.bases": (),
    "prompt_slots": 0,  # what the questions take in the model's tokens
    "max_actions": 0,
    "evaluate.max_actions": 24,  # room to take four wrong tokens back and answer
    "evaluate.examples": 250,  # begun with wrong tokens, and asked for several samples
    "evaluate.rows": 100,
    "evaluate.samples": 2,
    "model.lora_rank": 16,
    "optimizer.learning_rate": 5e-4,
    "train.batch_size": 8,
    "train.steps": 750,
    "train.bc_steps": 500,
    "rollout.rows": 16,
    "rollout.batch_size": 8,
}
NOISES: dict[str, dict[str, Any]] = {
    "no noise": {"noise.kind": "none", "noise.eta": 0.0},
    "random noise": {"noise.kind": "random", "noise.eta": 0.1},
    "wrong digits": {"noise.kind": "ground_truth", "noise.eta": 0.1},
}


def on_smollm2(method: str, seed: int, split: str, name: str, changes: Mapping[str, Any]) -> Cell:
    """A run on SmolLM2."""
    return Cell(name, method, seed, split, {**SMOLLM2, **changes}, config="pretrained")


def smollm2_entropies() -> list[Cell]:
    """How hard questions are to be: mle should answer 40 to 70 % of them."""
    return [
        on_smollm2("mle", 0, "validation", f"mle entropy={e}", {"data.entropy": e})
        for e in ENTROPIES
    ]


def smollm2_alphas() -> list[Cell]:
    """alpha for sequencematch and le_cam on a pretrained model, on random noise."""
    cells = []
    for method, alpha in product(("le_cam", "sequencematch"), ALPHAS):
        changes = FROZEN["smollm2"] | FROZEN[f"smollm2 {method}"] | NOISES["random noise"]
        changes |= {"objective.alpha": alpha}
        cells.append(on_smollm2(method, 0, "validation", f"{method} alpha={alpha:g}", changes))
    return cells


def smollm2() -> list[Cell]:
    """The paper's arithmetic on a pretrained model: methods x kinds of noise, on test questions."""
    cells = []
    for seed in (1, 2):
        cells.append(on_smollm2("mle", seed, "test", "mle", FROZEN["smollm2"]))
        for method, (kind, noise) in product(("bc", "sequencematch"), NOISES.items()):
            changes = FROZEN["smollm2"] | FROZEN.get(f"smollm2 {method}", {}) | noise
            cells.append(on_smollm2(method, seed, "test", f"{method}, {kind}", changes))
        changes = FROZEN["smollm2"] | FROZEN["smollm2 le_cam"]  # with the noise that was best
        cells.append(on_smollm2("le_cam", seed, "test", "le_cam", changes))
    return cells


# Two parts of WikiText-2, where they are there.
WIKITEXT = Path(__file__).parents[2] / "shared/data"
TEXTS = {
    "data.validation": 200,
    "data.test": 1_000,
    "data.window": 128,
    "data.prompt": 32,
    "evaluate.stop_at": 128,
    "evaluate.samples": 1,
    "evaluate.decodings": ("greedy", "sampled"),
    "evaluate.rows": 100,
}
LAMBDAS = (2.5e-4, 2.5e-3, 2.5e-2)
TEMPERATURES = ("greedy", "temperature=0.4", "temperature=0.6", "temperature=0.8", "sampled")
WAYS = ("greedy", "sampled", "top_p=0.95", "min_p=0.05", "top_k=4,contrastive=0.6")


def corpus(characters: int) -> dict[str, str]:
    """Stretches of WikiText-2 where it is there, else Python's docstrings.

    It has 122 articles, too few to ask one question each: stretches of one article may be learned from
    and asked about.

    Args:
      characters: of a stretch, at least. It begins at a capital.
    """
    if not WIKITEXT.is_dir():
        return {"data.corpus": "stdlib"}
    divider = rf"[A-Z][\s\S]{{{characters},}}?\s(?=[A-Z])"
    return {"data.corpus": f"files:{WIKITEXT}/wikitext2_*.txt", "data.divider": divider}


def texts() -> list[Cell]:
    """Methods and ways to answer on text, small networks of characters from scratch, equal tokens.

    And quality against diversity: lambda of IQ-Learn's offline objective x temperature, and mle.
    """
    cells = []
    for seed in SEEDS:
        for method in ("mle", "unlikelihood", "bc", "sequencematch", "le_cam", "iql_offline"):
            changes, last = {**TEXTS, **corpus(160)}, {}
            if method in ("mle", "iql_offline"):
                changes["evaluate.decodings"] = TEMPERATURES
            if method == "mle":
                changes["evaluate.decodings"] = (*WAYS, *TEMPERATURES[1:-1])
            # sequencematch takes 67.2 rows in each step after 600 of 32: its batch, as many samples
            # and its share of a refresh. The others have as many in as many steps, or more steps.
            if method in ("bc", "le_cam"):
                last = {"train.batch_size": 67}
            elif method != "sequencematch":
                changes["train.steps"] = 1_230
            if method != "iql_offline":
                cells.append(Cell(method, method, seed, "test", changes, last, "text"))
                continue
            for td_weight in LAMBDAS:
                own = changes | {"objective.td_weight": td_weight}
                name = f"iql_offline lambda={td_weight:g}"
                cells.append(Cell(name, method, seed, "test", own, last, "text"))
    return cells


def texts_smollm2() -> list[Cell]:
    """Three methods on SmolLM2 by LoRA, equal tokens; as many texts as such long stretches give."""
    changes, cells = {**TEXTS, **corpus(750)}, []
    for seed in SEEDS[:2]:
        # After 200 steps of 8 rows sequencematch takes 16.4 in each of 100.
        more = {"train.steps": 405}
        cells += [
            Cell("mle", "mle", seed, "test", changes | more, {}, "text_pretrained"),
            Cell("bc", "bc", seed, "test", changes, {"train.batch_size": 16}, "text_pretrained"),
            Cell("sequencematch", "sequencematch", seed, "test", changes, {}, "text_pretrained"),
        ]
    return cells


def next_cells(cells: Sequence[Cell], accuracies: Mapping[tuple[str, int], float]) -> list[Cell]:
    """The cells without a row, of the first seed that has such; empty if the grid is done.

    Where settings are chosen, it is by successive halving (Jamieson & Talwalkar, AISTATS 2016): the
    next seed has the better half of each method's settings, by their mean accuracy so far.

    Args:
      cells: of a grid.
      accuracies: greedy accuracy of the rows that are done, by name and seed.
    """
    seeds, names = list(dict.fromkeys(cell.seed for cell in cells)), {cell.name for cell in cells}
    totals: Counter[str] = Counter()
    for seed in seeds:
        of_seed = [cell for cell in cells if cell.seed == seed and cell.name in names]
        missing = [cell for cell in of_seed if (cell.name, seed) not in accuracies]
        if missing:
            return missing
        if of_seed[0].split == "validation":
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


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "bc": lambda: optimizers("bc"),
    "mle": lambda: optimizers("mle"),
    "objectives": objectives,
    "table_5000": lambda: table(PAPER, range(3, 8), equal_tokens=True),
    "smollm2_entropies": smollm2_entropies,
    "smollm2_alphas": smollm2_alphas,
    "smollm2": smollm2,
    "texts": texts,
    "texts_smollm2": texts_smollm2,
    "table_20000": lambda: table(MANY, range(3, 6), equal_tokens=False),
}
