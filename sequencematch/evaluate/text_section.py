"""The sections of a report that say what generated texts are like."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sequencematch.evaluate.divergence_plot import divergence_figure
from sequencematch.evaluate.records import RunFiles
from sequencematch.evaluate.sections import (
    count,
    decimal,
    escape,
    figure,
    list_at,
    object_at,
    section,
    table,
    ways,
)

# Key of a figure, title, meaning, and format.
ROWS = (
    ("overlap", "Overlap", "Σ min(p, q) over 4-grams of characters, with the real texts.", figure),
    ("entropy", "n-gram entropy", "Of words, in nats, mean of n = 1 to 4.", decimal),
    ("diversity", "Diversity", "Product of distinct n-gram shares, n = 2 to 4.", decimal),
    ("repetition", "Repetition", "Share of words that stand among the 16 before them.", figure),
    ("zipf", "Zipf coefficient", "Exponent of word frequency by rank; near 1 in print.", decimal),
    ("words", "Words", "Mean number in a text.", decimal),
    ("tokens", "Tokens", "Mean number that survives in a text.", count),
    ("edit_actions", "Edits", "Mean number of edit actions in a text.", decimal),
    (
        "actions",
        "Actions",
        "Mean number that a text took, with edits, <eos> and all draws.",
        count,
    ),
    ("unfinished", "Cut texts", "Number that the limit on actions cut before their end.", count),
    ("empty_texts", "Empty texts", "Number of texts without a word.", count),
)
REAL = (
    ("perplexity", "Perplexity", "Of the test texts, an action each.", decimal),
    ("nats_per_character", "Nats per character", "Compares tokenizers.", decimal),
)
# What --mode=score has beside those.
SCORED = (
    ("texts", "Texts", "Number in the file.", count),
    ("accuracy", "Accuracy", "Share of right answers.", figure),
    ("edited_texts", "Texts with edits", "Share of them.", figure),
    ("mauve", "MAUVE", "Area under the divergence curve, mean of five k-means seeds.", decimal),
    ("mauve_deviation", "MAUVE, deviation", "Over the seeds of k-means.", decimal),
    ("reference_perplexity", "Perplexity under a model", "Of the texts.", decimal),
    ("reference_perplexity_real", "The same of real texts", "Near this is good.", decimal),
    ("reference_perplexity_ratio", "Ratio of the two", "Near 1 is good.", decimal),
    (
        "reference_nats_per_character",
        "Nats per character under a model",
        "Compares texts that it reads as unequal numbers of tokens.",
        decimal,
    ),
    ("reference_nats_per_character_real", "The same of real texts", "Near this is good.", decimal),
    ("bleu", "BLEU", "Of the corpus, 0 to 100.", decimal),
    ("chrf", "chrF", "Of the corpus, 0 to 100.", decimal),
    ("rouge1", "ROUGE-1", "Mean F-measure.", decimal),
    ("rouge2", "ROUGE-2", "Mean F-measure.", decimal),
    ("rougeL", "ROUGE-L", "Mean F-measure.", decimal),
    ("self_bleu", "Self-BLEU", "Of each text with the others; high where all are alike.", decimal),
    *ROWS,
)
# What says how figures were made, and the figures' title.
MADE_WITH = {
    "mauve_made_with": "MAUVE",
    "reference_perplexity_made_with": "Perplexity under a model",
}


def texts(run: RunFiles) -> str:
    """Shows what the texts of each way to answer are like, and how likely real ones are."""
    test = object_at(run.summary, "test")
    found = {way: object_at(test, way) for way in ways(run)}
    shown = {way: figures for way, figures in found.items() if "overlap" in figures}
    real = object_at(object_at(test, "sampled"), "real_text")
    titles = {"text": "edits masked", "actions": "among all actions"}
    likely = {title: x for key, title in titles.items() if (x := object_at(real, key))}
    return section("Generated texts", _table(ROWS, shown)) + section(
        "How likely the real texts are", _table(REAL, likely)
    )


def file_scores(run: RunFiles) -> str:
    """Shows the figures of text files that --mode=score was given, and their divergence curves."""
    files = {str(line.get("file")): line for line in run.scores}
    curves = {name: list_at(line, "mauve_curve") for name, line in files.items()}
    drawn = divergence_figure(curves)
    note = ""
    for name, line in files.items():
        for key, title in MADE_WITH.items():
            if made := object_at(line, key):
                facts = ", ".join(f"{fact} {value}" for fact, value in made.items())
                note += (
                    f'<p class="small">{title} of {escape(name)} was made with {escape(facts)}.</p>'
                )
    panels = f'<div class="panels">{drawn}</div>' * bool(drawn)
    return section("Scores of text files", _table(SCORED, files) + note + panels)


def _table(rows: tuple[tuple, ...], columns: Mapping[str, dict]) -> str:
    """A table of figures, each with its interval where there is one."""
    with_intervals = [(*row[:3], partial(_cell, row[3])) for row in rows]
    cells = {
        name: {key: (x, list_at(object_at(found, "intervals"), key)) for key, x in found.items()}
        for name, found in columns.items()
    }
    return table(with_intervals, cells)


def _cell(form: Callable[[Any], str], cell: tuple[Any, list] | None) -> str:
    """A figure, and under it its interval of 95 %."""
    value, interval = cell or (None, [])
    ends = f"{form(interval[0])} to {form(interval[1])}" if len(interval) == 2 else ""
    return form(value) + f'<span class="small">{ends}</span>' * bool(ends)
