"""The paper's arithmetic on SmolLM2: how hard questions are, alpha, and the table."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from experiments.cell import AS_MANY_ROWS, Cell, frozen

ENTROPIES = ((2.0, 4.0), (2.0, 5.0), (1.0, 3.0), (1.0, 2.0))

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
    "evaluate.samples": 4,
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


CHOOSING = {"evaluate.decodings": ("greedy", "sampled")}


def smollm2_entropies() -> list[Cell]:
    """How hard questions are to be: mle should answer 40 to 70 % of them.

    The first that does is taken; the grid may be ended then.
    """
    return [
        on_smollm2("mle", 0, "validation", f"mle entropy={e}", CHOOSING | {"data.entropy": e})
        for e in ENTROPIES
    ]


def smollm2_alphas() -> list[Cell]:
    """alpha for sequencematch and le_cam on a pretrained model, on random noise: a coarse choice.

    The paper's, or the one chosen for a small network; by one seed, for every kind of noise.
    """
    cells, questions = [], frozen("smollm2", "smollm2_entropies")
    for method, alpha in product(("le_cam", "sequencematch"), (0.01, 0.3)):
        changes = CHOOSING | questions | NOISES["random noise"]
        changes |= {"objective.alpha": alpha, "objective.gamma": 0.998}
        cells.append(on_smollm2(method, 0, "validation", f"{method} alpha={alpha:g}", changes))
    return cells


def smollm2() -> list[Cell]:
    """The paper's arithmetic on a pretrained model: methods x kinds of noise, on test questions.

    le_cam, whose cost is that of bc, with both kinds of noise: choosing one would be choosing on test.
    All have equal steps; sequencematch has more tokens, and one setting of bc as many.
    """
    cells, questions = [], frozen("smollm2", "smollm2_entropies")
    for seed in (1, 2):
        cells.append(on_smollm2("mle", seed, "test", "mle", questions))
        for method, (kind, noise) in product(("bc", "sequencematch", "le_cam"), NOISES.items()):
            if (method, kind) == ("le_cam", "no noise"):
                continue
            own = {} if method == "bc" else frozen(f"smollm2 {method}", "smollm2_alphas")
            name = f"{method}, {kind}"
            cells.append(on_smollm2(method, seed, "test", name, questions | own | noise))
            if name == "bc, random noise":
                more = {"train.batch_size": AS_MANY_ROWS["pretrained"]}
                cells.append(cells[-1]._replace(name=f"{name}, equal tokens", last_changes=more))
    return cells
