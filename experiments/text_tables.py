"""Tables and a drawing of the rows of text: what `texts` measured, over the runs of each setting."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments import text_pairs
from experiments.asked import Rows
from experiments.markdown import print_table
from experiments.text_grids import TEMPERATURES
from experiments.texts import NO_WAYS

# The columns of the table, and where each is in the figures of a way to answer.
COLUMNS = {
    "MAUVE": "mauve",
    "nats by SmolLM2": "nats",  # of each token that was written
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

# What is drawn of lambda and temperature: (diversity, quality), as columns.
DIVERSITY, QUALITY = "self-BLEU", "MAUVE"


def print_texts(settings: Mapping[str, Rows]) -> None:
    """Prints the figures of texts, and how well scores of texts go with their quality."""
    print_table(["setting", "seeds", *COLUMNS], metric_lines(settings))
    paired = [line for line in difference_lines(settings) if any(line[2:])]
    if paired:  # of two seeds and more
        print("\nAgainst the first setting, paired by seed:\n")
        print_table(["difference", "seeds", *COLUMNS], paired)
    ratios = text_pairs.ratio_lines(settings)
    if ratios:
        print(
            "\nPerplexity by SmolLM2 of a token that was written, ratios of pairs by seed and prompt:\n"
        )
        print_table(["texts", "seeds", "ratio", "each seed"], ratios)
    print("\nPerplexity of the real texts:\n")
    header = ["setting", "edits masked", "among all actions"]
    print_table(header, perplexity_lines(settings))
    rewards = list(next(iter(settings.values())).values())[0]["figures"]["rewards"]
    scores = rewards["correlations"]
    print("\nSpearman's correlation of scores of sampled texts with quality:\n")
    print_table(["setting", *scores], correlation_lines(settings))


def metric_lines(settings: Mapping[str, Rows]) -> list[list[str]]:
    """Lines of the table: setting and way to answer, seeds, figures as of `cell`."""
    found = []
    for name, rows in settings.items():
        figures = [with_nats(row["figures"]) for row in rows.values()]
        for choice in dict.fromkeys(way for each in figures for way in each):
            if choice not in ("perplexity", "rewards"):
                known = [each[choice] for each in figures if choice in each]
                cells = (cell(known, key) for key in COLUMNS.values())
                found.append([f"{name}, {choice}", str(len(known)), *cells])
    return found


def with_nats(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a run; those of ways to answer have the mean of `nats_of_each`."""
    nats = {
        way: {"nats": float(text_pairs.nats_of_each(each).mean())}
        for way, each in figures.items()
        if "each" in each and way not in NO_WAYS
    }
    return {way: each | nats.get(way, {}) for way, each in figures.items()}


def cell(figures: Sequence[Mapping[str, Any]], key: str) -> str:
    """A figure's mean and deviation over runs; of one run its interval over texts, if it has one."""
    first = figures[0]
    if len(figures) > 1 or key not in first.get("intervals", {}):
        return spread([each.get(key) for each in figures])
    return "{:.3g} [{:.3g}, {:.3g}]".format(first[key], *first["intervals"][key])


def perplexity_lines(settings: Mapping[str, Rows]) -> list[list[str]]:
    """Lines of the table of real texts' perplexity: edits masked, and of the expert's actions."""
    known = {
        name: [row["figures"]["perplexity"] for row in rows.values()]
        for name, rows in settings.items()
    }
    return [
        [name, *(spread([x[key]["perplexity"] for x in found]) for key in ("text", "actions"))]
        for name, found in known.items()
    ]


def difference_lines(settings: Mapping[str, Rows]) -> list[list[str]]:
    """Lines of the table of differences to the first setting, paired by seed and by way to answer.

    Ways of the first setting itself, and those that it has not, are compared with its sampled texts.
    The mean and its 95 % interval by Student's t, over runs alone: few seeds make it wide, or by chance
    narrower than the texts of these runs allow.
    """
    figures = {
        name: {seed: with_nats(row["figures"]) for seed, row in rows.items()}
        for name, rows in settings.items()
    }
    (first, base), found = next(iter(figures.items())), []
    for name, runs in figures.items():
        for choice in dict.fromkeys(way for each in runs.values() for way in each):
            if choice in NO_WAYS or (name, choice) == (first, "sampled"):
                continue
            seeds = [seed for seed in runs if seed in base and choice in runs[seed]]
            has_same = name != first and all(choice in base[s] for s in seeds)
            theirs, cells = choice if has_same else "sampled", []
            for key in COLUMNS.values():
                pairs = [(runs[s][choice].get(key), base[s][theirs].get(key)) for s in seeds]
                cells.append(interval([a - b for a, b in pairs if None not in (a, b)]))
            found.append([f"{name}, {choice} - {first}, {theirs}", str(len(seeds)), *cells])
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


def correlation_lines(settings: Mapping[str, Rows]) -> list[list[str]]:
    """Lines of the table of `judge_rewards`: setting, quality and kind, a column for each score."""
    found = []
    for name, rows in settings.items():
        known = [row["figures"]["rewards"]["correlations"] for row in rows.values()]
        for quality, kind in product(("chrf", "reader"), ("pooled", "within")):
            cells = [spread([x[score][quality][kind] for x in known]) for score in known[0]]
            found.append([f"{name}, {quality}, {kind}", *cells])
    return found


def draw(settings: Mapping[str, Rows]) -> Figure:
    """Draws quality against diversity: a point for each setting and temperature, the mean over seeds.

    Settings with temperatures between greedy and sampled texts have a line through them, and labels.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel=f"{DIVERSITY} (less is more diverse)", ylabel=QUALITY)
    for name, rows in settings.items():
        figures = [row["figures"] for row in rows.values()]
        ways = [way for way in TEMPERATURES if way in figures[0]]
        x, y = (
            [np.mean([each[way][key] for each in figures]) for way in ways]
            for key in (COLUMNS[DIVERSITY], COLUMNS[QUALITY])
        )
        is_curve = len(ways) > 2
        axes.plot(x, y, "o-" if is_curve else "o", label=name)
        for way, *point in zip(ways, x, y, strict=True):
            label = way.removeprefix("temperature=") if is_curve else ""
            axes.annotate(label, point, (5, 3), textcoords="offset points", fontsize=7)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure
