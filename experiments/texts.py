"""The figures of text: 1,000 texts by each way to answer, beside the real ones.

One protocol for all rows: the same prompts, texts of 128 surviving tokens, edits counted apart, and
SmolLM2-135M-Instruct (`make smollm2`) as the model that reads them.
"""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from scipy import stats

from experiments.figures import Figures, write_texts
from experiments.grids import TEMPERATURES
from sequencematch.cli.results import answer_all, real_text_figures
from sequencematch.cli.scoring import score
from sequencematch.cli.smollm2 import DIRECTORY
from sequencematch.data.task import Example
from sequencematch.evaluate.edits import edit_statistics, text_costs
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.likeness import load_optional
from sequencematch.evaluate.mauve import MODEL_METRICS
from sequencematch.evaluate.reference import Reference
from sequencematch.evaluate.values import answer_scores
from sequencematch.setup.build import Parts
from sequencematch.setup.judges import make_generator, make_scorer
from sequencematch.train.methods import METHODS
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
# The columns of the table, and where each is in the figures of a way to answer.
COLUMNS = {
    "MAUVE": "mauve",
    "perplexity by SmolLM2 / real": "reference_perplexity_ratio",
    "diversity": "diversity",
    "repetition": "repetition",
    "entropy": "entropy",
    "self-BLEU": "self_bleu",
    "Zipf": "zipf",
    "tokens": "tokens",
    "BLEU": "bleu",
    "chrF": "chrf",
    "edits": "edit_actions",
    "texts with edits": "edited",
    "unfinished": "unfinished",
}


# Figures of a row that are no way to answer, and ways that are not paired with samples.
NOT_PAIRED = {"perplexity", "rewards", "real", *TEMPERATURES} - {"sampled"}

# What is drawn of lambda and temperature: (diversity, quality), as columns.
DIVERSITY, QUALITY = "self-BLEU", "MAUVE"


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

    The texts are kept beside the figures, for other metrics.
    """
    examples = [*parts.task.splits["test"]]
    generator, params = make_generator(parts), parts.whole(state.params)

    def measure(choice: str) -> dict[str, Any]:
        answers = answer_all(generator, params, examples, choice, lambda: None)
        write_texts(figures.folder / "texts" / f"{choice}.jsonl", answers)
        edits = edit_statistics(parts.recipe.mdp, answers, parts.task, parts.tokenizer)
        found = score(answers, MEASURED, reader()) | text_costs(parts.recipe.mdp, answers)
        return found | {"edited": edits["answers"], "edits_per_action": edits["per_action"]}

    def measure_real() -> dict[str, Any]:
        real = [Answer(example, [], example.completion, True, True, 0) for example in examples]
        return score(real, [name for name in MEASURED if name not in MODEL_METRICS], None)

    for choice in generator.decodings:
        figures.add(choice, partial(measure, choice))
    figures.add("rewards", lambda: reward_correlations(parts, params, examples))
    figures.add("real", measure_real)
    figures.add("perplexity", lambda: real_text_figures(parts, params, lambda: None))


def reward_correlations(
    parts: Parts, params: nnx.State, examples: Sequence[Example]
) -> dict[str, dict[str, float | None]]:
    """Spearman's correlation of the scores of texts with their quality, as in arXiv 2409.01369.

    Texts are drawn from the policy itself. Scores are those of `answer_scores`, recovered returns among
    them. Quality is chrF against the real text, and the mean log-likelihood of a token to the reader.
    """
    # Without edits, and at temperature 1, texts that are sampled are the policy's, and read already.
    is_policy = not METHODS[parts.config.method].edits and parts.config.evaluate.temperature == 1
    policy = make_generator(parts) if is_policy else make_generator(parts, {"policy": None})
    choice = "sampled" if is_policy else "policy"
    answers = answer_all(policy, params, examples, choice, lambda: None)
    gamma, scorer = parts.recipe.objective.gamma, make_scorer(parts)
    scores = [answer_scores(x, gamma) for x in scorer.score_answers(params, answers)]
    reading = reader().read([(answer.example.prompt, answer.text) for answer in answers])
    sacrebleu = load_optional("sacrebleu", "text")
    qualities = {
        "chrf": [sacrebleu.sentence_chrf(a.text, [*a.example.references]).score for a in answers],
        "reader": list(reading.log_likelihoods / np.maximum(reading.counts, 1)),
    }
    return {
        score: {
            quality: rank_correlation([each[score] for each in scores], known)
            for quality, known in qualities.items()
        }
        for score in scores[0]
    }


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's correlation; None if one of them is the same everywhere."""
    if min(x) == max(x) or min(y) == max(y):
        return None
    return float(stats.spearmanr(x, y).statistic)


def lines(settings: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[list[str]]:
    """Lines of the table: setting and way to answer, seeds, mean and deviation over seeds."""
    found = []
    for name, rows in settings.items():
        figures = [row["figures"] for row in rows.values()]
        for choice in figures[0]:
            if choice not in ("perplexity", "rewards"):
                cells = (spread([f[choice].get(key) for f in figures]) for key in COLUMNS.values())
                found.append([f"{name}, {choice}", str(len(figures)), *cells])
    return found


def perplexity_lines(settings: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[list[str]]:
    """Lines of the table of real texts' perplexity: edits masked, and of the expert's actions."""
    known = {
        name: [row["figures"]["perplexity"] for row in rows.values()]
        for name, rows in settings.items()
    }
    return [
        [name, *(spread([x[key]["perplexity"] for x in found]) for key in ("text", "actions"))]
        for name, found in known.items()
    ]


def difference_lines(settings: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[list[str]]:
    """Lines of the table of differences to sampled texts of the first setting, paired by seed.

    The mean and its 95 % interval by Student's t, over runs alone: few seeds make it wide. Greedy texts
    and those of other temperatures than 1 are left out: `draw` shows them.
    """
    (first, base), found = next(iter(settings.items())), []
    for name, rows in settings.items():
        seeds = [seed for seed in rows if seed in base]
        for choice in next(iter(rows.values()))["figures"]:
            if choice in NOT_PAIRED or (name, choice) == (first, "sampled"):
                continue
            cells = []
            for key in COLUMNS.values():
                pairs = [
                    (rows[s]["figures"][choice].get(key), base[s]["figures"]["sampled"].get(key))
                    for s in seeds
                ]
                cells.append(interval([a - b for a, b in pairs if None not in (a, b)]))
            found.append([f"{name}, {choice} - {first}, sampled", str(len(seeds)), *cells])
    return found


def interval(values: Sequence[float]) -> str:
    """The mean and its 95 % interval by Student's t; nothing of less than two."""
    n = len(values)
    if n < 2:
        return ""
    mean, error = np.mean(values), np.std(values, ddof=1) / n**0.5
    half = stats.t.ppf(0.975, n - 1) * error
    return f"{mean:+.3g} [{mean - half:+.3g}, {mean + half:+.3g}]"


def spread(values: list[float | None]) -> str:
    """The mean of a figure over seeds and, of two or more, its deviation; nothing if it has none."""
    known = [x for x in values if x is not None]
    if not known:
        return ""
    mean = f"{np.mean(known):.3g}"
    return f"{mean} ± {np.std(known, ddof=1):.2g}" if len(known) > 1 else mean


def correlation_lines(settings: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[list[str]]:
    """Lines of the table of `reward_correlations`: setting and quality, a column for each score."""
    found = []
    for name, rows in settings.items():
        known = [row["figures"]["rewards"] for row in rows.values()]
        for quality in next(iter(known[0].values())):
            cells = [spread([each[score][quality] for each in known]) for score in known[0]]
            found.append([f"{name}, {quality}", *cells])
    return found


def draw(settings: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Figure:
    """Draws quality against diversity: a line for each setting, a point for each temperature.

    A point is the mean over seeds.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel=f"{DIVERSITY} (less is more diverse)", ylabel=QUALITY)
    for name, rows in settings.items():
        figures = [row["figures"] for row in rows.values()]
        ways = [way for way in TEMPERATURES if way in figures[0]]
        x, y = (
            [np.mean([each[way][key] for each in figures]) for way in ways]
            for key in (COLUMNS[DIVERSITY], COLUMNS[QUALITY])
        )
        axes.plot(x, y, marker="o", label=name)
        for way, *point in zip(ways, x, y, strict=True):
            axes.annotate(way.removeprefix("temperature="), point, fontsize=7)
    axes.legend(fontsize=8)
    return figure
