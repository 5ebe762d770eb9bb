"""How much likelier the reader finds texts than others that answer the same prompts, pair by pair."""

from collections.abc import Iterator, Mapping, Sequence
from math import exp
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.asked import Rows
from experiments.figures import unpack_numbers
from experiments.texts import UNEDITED_SAMPLES
from sequencematch.evaluate.intervals import GROUPS, Difference, paired_difference

CLONES = "bc"  # the setting that those of other objectives branch from


class Texts(NamedTuple):
    """The texts of a setting by one way to answer."""

    rows: Rows
    way: str


def ratio_lines(settings: Mapping[str, Rows]) -> list[list[str]]:
    """Lines of the table of perplexity ratios: what is compared, seeds, ratio, that of each seed.

    The perplexity of a text is e^-(mean log p of its tokens); ratios are e^(mean difference of nats).
    """
    found = []
    for what, ours, theirs in comparisons(settings):
        seeds = [seed for seed in ours.rows if seed in theirs.rows]
        if seeds:
            nats = [nats_of_texts(texts, seeds) for texts in (ours, theirs)]
            each = ", ".join(f"{exp(x):.3g}" for x in (nats[0] - nats[1]).mean(axis=1))
            found.append([what, str(len(seeds)), write_ratio(compare(*nats)), each])
    return found


def comparisons(settings: Mapping[str, Rows]) -> Iterator[tuple[str, Texts, Texts]]:
    """Yields what is compared with what.

    What edits do: sampled texts with those of the same network that masks them. What methods do:
    sampled texts with those of the first setting, and of `CLONES`, if they stand before.
    """
    for name, rows in settings.items():
        if all(UNEDITED_SAMPLES in row["figures"] for row in rows.values()):
            what = f"{name}, sampled / {UNEDITED_SAMPLES}"
            yield what, Texts(rows, "sampled"), Texts(rows, UNEDITED_SAMPLES)
    names = list(settings)
    for i, base in enumerate(names):
        for name in names[i + 1 :] if i == 0 or base == CLONES else []:
            sides = (Texts(settings[each], "sampled") for each in (name, base))
            yield f"{name} / {base}, sampled", *sides


def nats_of_texts(texts: Texts, seeds: Sequence[int]) -> Float[np.ndarray, "S N"]:
    """-log p of a token to the reader, the mean over those of each text."""
    found = []
    for seed in seeds:
        each = texts.rows[seed]["figures"][texts.way]["each"]
        sums, counts = (
            unpack_numbers(each[name], kind).astype(float)
            for name, kind in (("log_likelihoods", "<f4"), ("tokens", "<u2"))
        )
        found.append(-sums / np.maximum(counts, 1))
    return np.stack(found)


def compare(ours: Float[np.ndarray, "S N"], theirs: Float[np.ndarray, "S N"]) -> Difference:
    """The mean difference of nats, paired by seed and prompt; its interval is over both.

    Prompts of one document are neighbours, and their texts alike: they are drawn in `GROUPS` groups.
    """
    n = ours.shape[1]
    groups = np.arange(n) * min(GROUPS, n) // n
    return paired_difference(ours, theirs, groups=groups.tolist())


def write_ratio(nats: Difference) -> str:
    """The ratio of perplexities, e^nats, with its interval and, of three seeds or more, p."""
    ratio, low, high = (f"{exp(x):.3g}" for x in (nats.mean, nats.low, nats.high))
    return f"{ratio} [{low}, {high}]" + (
        "" if nats.p_value is None else f", p = {nats.p_value:.2g}"
    )
