"""Methods and ways to answer on text: small networks from scratch, and SmolLM2."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from experiments.cell import AS_MANY_ROWS, SEEDS, Cell

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
LAMBDAS = (2.5e-3, 2.5e-2, 2.5e-1)  # the first is nearly likelihood
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
        # The paper's alpha, at which the objective is nearly likelihood, and what arithmetic chose.
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
    """Three methods on SmolLM2 by LoRA, sequencematch at the paper's alpha.

    A run takes hours of a core: so fewer ways to answer, fewer prompts whose texts are scored, and not
    the alpha that arithmetic chose, which from scratch is behind in text. The last run of mle is also
    sampled in ways that make texts likelier, as edits do.
    """
    fewer = {"evaluate.decodings": ("greedy", "sampled"), "evaluate.examples": 100}
    likelier = {"evaluate.decodings": ("greedy", "sampled", "temperature=0.95", "top_p=0.95")}
    config, changes, cells = "text_pretrained", {**TEXTS, **corpus(0.35), **fewer}, []
    for seed in SEEDS[:2]:
        ways = likelier if seed == SEEDS[1] else {}
        cells.append(of_text(config, "mle", seed, changes | ways))
        cells.append(of_text(config, "bc", seed, changes))
        own = changes | {"objective.alpha": 0.01}
        cells.append(of_text(config, "sequencematch", seed, own, "sequencematch alpha=0.01"))
    return cells
