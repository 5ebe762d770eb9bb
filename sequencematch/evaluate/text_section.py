"""The section of a report that says what generated texts are like."""

from sequencematch.evaluate.records import RunFiles
from sequencematch.evaluate.sections import count, decimal, figure, object_at, section, table, ways

# Key in the summary's "test", title, meaning, and format.
ROWS = (
    ("overlap", "Overlap", "Σ min(p, q) over 4-grams of characters, with the real texts.", figure),
    ("entropy", "n-gram entropy", "Of words, in nats, mean of n = 1 to 4.", decimal),
    ("diversity", "Diversity", "Product of distinct n-gram shares, n = 2 to 4.", decimal),
    ("repetition", "Repetition", "Share of words that stand among the 16 before them.", figure),
    ("zipf", "Zipf coefficient", "Exponent of word frequency by rank; near 1 in print.", decimal),
    ("words", "Words", "Mean number in a text.", decimal),
    ("tokens", "Tokens", "Mean number that survives in a text.", count),
    ("edit_actions", "Edits", "Mean number of edit actions in a text.", decimal),
    ("actions", "Actions", "Mean number in a text, edits and <eos> included.", count),
    ("unfinished", "Cut texts", "Number that the limit on actions cut before their end.", count),
    ("empty_texts", "Empty texts", "Number of texts without a word.", count),
)
REAL = (
    ("perplexity", "Perplexity", "Of the test texts, an action each.", decimal),
    ("nats_per_character", "Nats per character", "Compares tokenizers.", decimal),
)


def texts(run: RunFiles) -> str:
    """Shows what the texts of each way to answer are like, and how likely real ones are."""
    test = object_at(run.summary, "test")
    found = {way: object_at(test, way) for way in ways(run)}
    shown = {way: figures for way, figures in found.items() if "overlap" in figures}
    real = object_at(object_at(test, "sampled"), "real_text")
    titles = {"text": "edits masked", "actions": "among all actions"}
    likely = {title: x for key, title in titles.items() if (x := object_at(real, key))}
    return section("Generated texts", table(ROWS, shown)) + section(
        "How likely the real texts are", table(REAL, likely)
    )
