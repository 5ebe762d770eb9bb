"""The figures of text: 1,000 texts by each way to answer, beside the real ones.

One protocol for all rows: the same prompts, texts of 128 surviving tokens, edits counted apart, and
SmolLM2-135M-Instruct (`make smollm2`) as the model that reads them.
"""

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from flax import nnx
from scipy import stats

from experiments.figures import Figures, pack_numbers, write_texts
from sequencematch.cli.figures import answer_all, policy_draws, real_text_figures
from sequencematch.cli.scoring import score
from sequencematch.cli.smollm2 import DIRECTORY
from sequencematch.evaluate.edits import edit_statistics, text_costs
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.likeness import load_optional
from sequencematch.evaluate.mauve import MODEL_METRICS
from sequencematch.evaluate.reference import Reading, Reference
from sequencematch.evaluate.values import answer_scores
from sequencematch.rollout.decoding import Decoding
from sequencematch.setup.build import Parts
from sequencematch.setup.defaults import has_edits
from sequencematch.setup.judges import configured_decodings, make_generator, make_scorer
from sequencematch.train.state import TrainState

MEASURED = (
    "overlap",
    "entropy",
    "diversity",
    "repetition",
    "zipf",
    "length",
    "self_bleu",
    "bleu",
    "reference_perplexity",
    "mauve",
)
UNEDITED_SAMPLES = "sampled, edits masked"
NO_WAYS = {"perplexity", "rewards", "real"}  # figures of a row that are no way to answer


@cache
def reader() -> Reference:
    """The model that reads texts.

    Raises:
      ValueError, OSError: it, or a library that measures texts, is not there.
    """
    load_optional("mauve", "mauve")
    load_optional("sacrebleu", "text")
    return Reference(DIRECTORY)


def judge_texts(parts: Parts, state: TrainState, figures: Figures) -> None:
    """Adds figures of each way to answer, of the real texts, and the perplexity of these.

    All are of test questions. The texts are kept beside the figures, for other metrics.
    """
    examples = [*parts.task.splits["test"]]
    generator = make_generator(parts, ways_of(parts))
    params = parts.whole(state.params)

    def measure(choice: str) -> dict[str, Any]:
        answers = answer_all(generator, params, examples, choice, lambda: None)
        write_texts(figures.folder, choice, answers, parts.tokenizer)
        edits = edit_statistics(parts.recipe.mdp, answers, parts.task, parts.tokenizer)
        found = score(answers, MEASURED, reader()) | text_costs(parts.recipe.mdp, answers)
        found |= {"edited": edits["answers"], "edits_per_action": edits["per_action"]}
        reading = read_texts(answers)
        kept = {
            "log_likelihoods": pack_numbers(reading.log_likelihoods, "<f4"),
            "tokens": pack_numbers(reading.counts, "<u2"),
            "actions": pack_numbers([answer.taken for answer in answers], "<u2"),
        }
        return found | {"each": kept}

    def measure_real() -> dict[str, Any]:
        real = [Answer(example, [], example.completion, True, True, 0) for example in examples]
        return score(real, [name for name in MEASURED if name not in MODEL_METRICS], None)

    for choice in generator.decodings:
        figures.add(choice, partial(measure, choice))
    figures.add("rewards", lambda: judge_rewards(parts, params))
    figures.add("real", measure_real)
    figures.add("perplexity", lambda: real_text_figures(parts, params, lambda: None))


def ways_of(parts: Parts) -> dict[str, Decoding]:
    """The configured ways to answer; where there are edits, also samples in which they are masked."""
    ways = configured_decodings(parts)
    if has_edits(parts.config):
        ways[UNEDITED_SAMPLES] = ways["sampled"]._replace(bias=-math.inf)
    return ways


def read_texts(answers: Sequence[Answer]) -> Reading:
    """What the model that reads texts makes of each; read once."""
    return reader().read([(answer.example.prompt, answer.text) for answer in answers])


def judge_rewards(parts: Parts, params: nnx.State) -> dict[str, Any]:
    """How the scores of texts go with their quality, as in arXiv 2409.01369: rank correlations.

    Several texts for each of some prompts are drawn from the policy itself. Scores are those of
    `answer_scores`, recovered returns among them. Quality is chrF against the real text, and the mean
    log-likelihood of a token to the reader. All are kept, prompt by prompt.
    """
    found, answers, prompts = policy_draws(parts, make_scorer(parts), params, lambda: None)
    each = [answer_scores(x, parts.recipe.objective.gamma) for x in found]
    scores = {name: [float(x[name]) for x in each] for name in each[0]}
    reading, sacrebleu = read_texts(answers), load_optional("sacrebleu", "text")
    qualities = {
        "chrf": [sacrebleu.sentence_chrf(a.text, [*a.example.references]).score for a in answers],
        "reader": list(reading.log_likelihoods / np.maximum(reading.counts, 1)),
    }
    pairs = {
        name: {kind: correlations(x, y, prompts) for kind, y in qualities.items()}
        for name, x in scores.items()
    }
    kept = {name: pack_numbers(x, "<f4") for name, x in (scores | qualities).items()}
    return {"correlations": pairs, "samples": parts.config.evaluate.samples, "each": kept}


def correlations(
    x: Sequence[float], y: Sequence[float], prompts: Sequence[int]
) -> dict[str, float | None]:
    """Spearman's correlation of all texts, and the mean of those among the texts of one prompt.

    The second is free of how hard prompts are. None where no correlation is defined.
    """
    x, y, groups = np.asarray(x), np.asarray(y), np.asarray(prompts)
    rows = [groups == group for group in np.unique(groups)]
    within = [rank_correlation(x[row], y[row]) for row in rows]
    known = [each for each in within if each is not None]
    mean = float(np.mean(known)) if known else None
    return {"pooled": rank_correlation(x, y), "within": mean}


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's correlation; None if one of them is the same everywhere."""
    if min(x) == max(x) or min(y) == max(y):
        return None
    return float(stats.spearmanr(x, y).statistic)
