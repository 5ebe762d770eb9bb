"""The figures of text: 1,000 texts by each way to answer, beside the real ones.

One protocol for all rows: the same prompts, texts of 128 surviving tokens, edits counted apart, and
SmolLM2-135M-Instruct (`make smollm2`) as the model that reads them.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from sequencematch.cli.results import answer_all, open_figures, real_text_figures
from sequencematch.cli.scoring import score
from sequencematch.cli.smollm2 import DIRECTORY
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.likeness import load_optional
from sequencematch.evaluate.reference import Reference
from sequencematch.setup.build import Parts
from sequencematch.setup.judges import make_generator
from sequencematch.train.state import TrainState

MEASURED = (
    "overlap",
    "entropy",
    "diversity",
    "repetition",
    "zipf",
    "length",
    "self_bleu",
    "reference_perplexity",
    "mauve",
)
# The columns of the table, and where each is in the figures of a way to answer.
COLUMNS = {
    "MAUVE": "mauve",
    "perplexity by SmolLM2 / real": "reference_perplexity_ratio",
    "diversity": "diversity",
    "repetition": "repetition",
    "entropy": "entropy",
    "self-BLEU": "self_bleu",
}


@cache
def reader() -> Reference:
    """The model that reads texts.

    Raises:
      ValueError, OSError: it, or what MAUVE needs, is not there.
    """
    load_optional("mauve", "mauve")
    return Reference(DIRECTORY)


def judge_texts(parts: Parts, state: TrainState) -> dict[str, Any]:
    """Figures of each way to answer, of the real texts, and the perplexity of these."""
    examples = [*parts.task.splits["test"]]
    generator, params = make_generator(parts), parts.whole(state.params)
    figures: dict[str, Any] = {}
    for choice in generator.decodings:
        answers = answer_all(generator, params, examples, choice, lambda: None)
        figures[choice] = score(answers, MEASURED, reader()) | open_figures(parts, answers)
    real = [Answer(example, [], example.completion, True, True) for example in examples]
    figures["real"] = score(real, MEASURED[:-2], None)
    return figures | {"perplexity": real_text_figures(parts, params, lambda: None)}


def lines(settings: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[list[str]]:
    """Lines of the table: setting and way to answer, seeds, mean and deviation over seeds."""
    found = []
    for name, rows in settings.items():
        figures = [row["figures"] for row in rows.values()]
        for choice in figures[0]:
            if choice != "perplexity":
                cells = (spread([f[choice].get(key) for f in figures]) for key in COLUMNS.values())
                found.append([f"{name}, {choice}", str(len(figures)), *cells])
    return found


def spread(values: list[float | None]) -> str:
    """The mean of a figure over seeds and, of two or more, its deviation; nothing if it has none."""
    known = [x for x in values if x is not None]
    if not known:
        return ""
    mean = f"{np.mean(known):.3g}"
    return f"{mean} ± {np.std(known, ddof=1):.2g}" if len(known) > 1 else mean
