"""Small networks on arithmetic: the choice of settings, the tables, and what J does alone."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from experiments.cell import AS_MANY_ROWS, SEEDS, Cell, frozen

LEARNING_RATES, WEIGHT_DECAYS = (1e-3, 2e-3, 4e-3, 8e-3), (0.1, 1.0)
ALPHAS, GAMMAS = (0.01, 0.03, 0.1, 0.3), (0.9, 0.998)

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
            PAPER | frozen("bc", "bc") | {"objective.alpha": alpha, "objective.gamma": gamma},
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
            chosen = frozen(method, method if method in ("bc", "mle") else "objectives")
            cells.append(Cell(method, method, seed, "test", {**size, **chosen}))
        if equal_tokens:
            batch = {"train.batch_size": AS_MANY_ROWS["arithmetic"]}
            changes = {**size, **frozen("bc", "bc")}
            cells.append(Cell("bc, equal tokens", "bc", seed, "test", changes, batch))
    return cells


def no_edits(seeds: Iterable[int]) -> list[Cell]:
    """The methods at their chosen settings without backspace and noise: what J alone does.

    mle is bc without edits here, so that it shares the stem of the others.
    """
    clean, cells = PAPER | {"edits": (), "noise.kind": "none"}, []
    for seed, method in product(seeds, ("bc", "le_cam", "sequencematch")):
        chosen = frozen(method, "bc" if method == "bc" else "objectives")
        name = "mle" if method == "bc" else f"{method}, no edits"
        cells.append(Cell(name, method, seed, "test", {**clean, **chosen}))
        if method == "bc":
            more = {"train.batch_size": AS_MANY_ROWS["arithmetic"]}
            cells.append(cells[-1]._replace(name="mle, equal tokens", last_changes=more))
    return cells


KINDS = {"random noise": "random", "wrong digits": "ground_truth", "hard negatives": "policy"}
LEVELS: dict[float, dict[str, Any]] = {0.03: {}, 0.3: {"max_actions": 20}}  # room to mend more
SAMPLES: dict[str, dict[str, Any]] = {
    "noise on samples": {"rollout.noise": True},
    "fresh samples": {"rollout.every": 1, "rollout.capacity": 64},  # all of the step's own policy
    # All of the policy that cloning has made, as many as else in 60 refreshes.
    "stale samples": {"rollout.every": 600, "rollout.rows": 3_840, "rollout.capacity": 3_840},
}


def noises(seeds: Iterable[int]) -> list[Cell]:
    """bc and sequencematch by kind of noise, and sequencematch with other samples.

    Whether what is mended is what the noise shows, whether hard negatives, drawn from the network
    itself, teach it to mend its own errors, and what the noise and the age of samples matter.
    """
    cells = []
    for seed in seeds:
        cells += [with_noise(m, seed, kind) for kind in KINDS for m in ("bc", "sequencematch")]
        base = with_noise("sequencematch", seed, "random noise")
        cells += [base._replace(name=name, last_changes=more) for name, more in SAMPLES.items()]
    return cells


def noise_levels(seeds: Iterable[int]) -> list[Cell]:
    """Accuracy against the level of noise, as in the paper, by method and kind of noise.

    Of other levels `no_edits` has 0, and `noises`, with the same seeds, .1.
    """
    kinds, methods = tuple(KINDS)[:2], ("bc", "sequencematch")
    cells = []
    for seed, level, kind, method in product(seeds, LEVELS, kinds, methods):
        cell = with_noise(method, seed, kind)
        changes = {**cell.changes, **LEVELS[level], "noise.eta": level}
        cells.append(cell._replace(name=f"{cell.name} of {level:g}", changes=changes))
    return cells


def with_noise(method: str, seed: int, kind: str) -> Cell:
    """A method at its chosen settings, with a kind of noise."""
    chosen = frozen(method, "bc" if method == "bc" else "objectives")
    changes = {**PAPER, **chosen, "noise.kind": KINDS[kind]}
    return Cell(f"{method}, {kind}", method, seed, "test", changes)
