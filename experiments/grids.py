"""The grids of runs behind docs/results.md, as data.

A grid is a list of cells: all settings of one seed, then the next (`order.py` says which are run next).
What a grid chooses is written into frozen.json by hand, with the reason, and later grids read it there.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

LEARNING_RATES, WEIGHT_DECAYS = (1e-3, 2e-3, 4e-3, 8e-3), (0.1, 1.0)
SEEDS = (0, 1, 2)  # for choices; the tables have seeds of their own
ALPHAS, GAMMAS = (0.01, 0.03, 0.1, 0.3), (0.9, 0.998)
ENTROPIES = ((2.0, 4.0), (2.0, 5.0), (1.0, 3.0), (1.0, 2.0))


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


# Rows that sequencematch takes in each matching step, by configuration: its batch, as many samples, and
# its share of a refresh, such as 64 samples every 10 steps. With as many others have equal tokens.
AS_MANY_ROWS = {"arithmetic": 64 + 64 + 6, "pretrained": 17, "text": 67, "text_pretrained": 16}

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


# Two parts of WikiText-2, where they are there; grids are run from the root of the repository.
WIKITEXT = Path("../shared/data")
TEXTS = {
    "data.validation": 200,
    "data.test": 1_000,
    "data.window": 128,
    "data.prompt": 32,
    "evaluate.stop_at": 128,
    "evaluate.examples": 250,  # each continued by some samples, whose scores and quality are compared
    "evaluate.samples": 4,
    "evaluate.decodings": ("greedy", "sampled", "top_p=0.95"),
    "evaluate.rows": 100,
}
LAMBDAS = (2.5e-3, 2.5e-2, 2.5e-1)  # the first is all but likelihood
TEMPERATURES = ("greedy", "temperature=0.4", "temperature=0.6", "temperature=0.8", "sampled")
WAYS = ("greedy", "sampled", "top_p=0.95", "min_p=0.05", "top_k=4,contrastive=0.6")


def corpus(test_share: float) -> dict[str, Any]:
    """The 120 articles of two parts of WikiText-2 where it is there, else Python's docstrings.

    Args:
      test_share: of the documents, so large that they ask 1,000 questions.
    """
    if not WIKITEXT.is_dir():
        return {"data.corpus": "stdlib", "data.test_share": test_share}
    articles = {
        "data.corpus": f"files:{WIKITEXT}/wikitext2_*.txt",
        # A title stands alone; two lines of formulas look like one.
        "data.divider": r"^ = [^=].* = $(?=\n \n)",
    }
    return articles | {"data.test_share": test_share}


def of_text(
    config: str, method: str, seed: int, changes: Mapping[str, Any], name: str = ""
) -> Cell:
    """A run on text, whose last steps have as many tokens as those of sequencematch."""
    more = {"train.batch_size": AS_MANY_ROWS[config]}
    last = {} if method == "sequencematch" else more
    return Cell(name or method, method, seed, "test", changes, last, config)


def texts() -> list[Cell]:
    """Methods and ways to answer on text, small networks of characters from scratch.

    And quality against diversity: lambda of IQ-Learn's offline objective x temperature, and mle.
    """
    cells, common = [], {**TEXTS, **corpus(0.1)}
    for seed in SEEDS:
        ways = {"evaluate.decodings": (*WAYS, *TEMPERATURES[1:-1])}
        cells.append(of_text("text", "mle", seed, common | ways))
        cells += [of_text("text", method, seed, common) for method in ("unlikelihood", "bc")]
        # The paper's alpha, at which the objective is all but likelihood, and what arithmetic chose.
        for method, alpha in product(("sequencematch", "le_cam"), (0.01, 0.3)):
            changes = common | {"objective.alpha": alpha}
            cells.append(of_text("text", method, seed, changes, f"{method} alpha={alpha:g}"))
        for td_weight in LAMBDAS:
            changes = common | {"evaluate.decodings": TEMPERATURES}
            changes |= {"objective.td_weight": td_weight}
            name = f"iql_offline lambda={td_weight:g}"
            cells.append(of_text("text", "iql_offline", seed, changes, name))
    return cells


def texts_smollm2() -> list[Cell]:
    """Three methods on SmolLM2 by LoRA, sequencematch with two alphas."""
    config, changes, cells = "text_pretrained", {**TEXTS, **corpus(0.35)}, []
    for seed in SEEDS[:2]:
        cells += [of_text(config, method, seed, changes) for method in ("mle", "bc")]
        for alpha in (0.01, 0.3):
            own, name = changes | {"objective.alpha": alpha}, f"sequencematch alpha={alpha:g}"
            cells.append(of_text(config, "sequencematch", seed, own, name))
    return cells


TEXT_GRIDS = ("texts", "texts_smollm2")  # whose rows have figures of texts

GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "bc": lambda: optimizers("bc"),
    "mle": lambda: optimizers("mle"),
    "objectives": objectives,
    "table_5000": lambda: table(PAPER, range(3, 8), equal_tokens=True),
    "no_edits": lambda: no_edits(range(3, 8)),
    "smollm2_entropies": smollm2_entropies,
    "smollm2_alphas": smollm2_alphas,
    "smollm2": smollm2,
    "texts": texts,
    "texts_smollm2": texts_smollm2,
    "table_20000": lambda: table(MANY, range(3, 6), equal_tokens=False),
    # With twins of test questions in train, as the paper and earlier versions had it.
    "table_twins": lambda: table(PAPER | {"data.split": "prompt"}, (3, 4), equal_tokens=False),
}
