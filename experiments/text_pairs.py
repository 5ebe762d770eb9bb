"""How much likelier the reader finds texts than others that answer the same prompts, pair by pair."""

from collections.abc import Iterator, Mapping, Sequence
from math import exp
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.asked import Rows
from experiments.figures import unpack_numbers
from experiments.texts import NO_WAYS, UNEDITED_SAMPLES
from sequencematch.evaluate.intervals import GROUPS, Difference, paired_difference

CLONES = "bc"  # the setting that those of other objectives branch from


class Texts(NamedTuple):
    """The texts of a setting by one way to answer."""

    rows: Rows
    way: str


def ratio_lines(settings: Mapping[str, Rows]) -> list[list[str]]:
    """Lines of the table of perplexity ratios: what is compared, seeds, ratio, that of each seed.

    The perplexity of a text is e^nats of `nats_of_texts`; ratios are e^(mean difference of nats).
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

    What edits do: sampled texts with those of the same network that masks them, and these with the
    samples of the first setting: masking may harm, as what is never sampled is never taught. What
    methods do: sampled texts with those of the first setting, and of `CLONES`, if they stand before.
    What ways to answer do: those of the first setting with its samples.
    """
    names = list(settings)
    first = settings[names[0]]
    masked = {
        name: Texts(rows, UNEDITED_SAMPLES)
        for name, rows in settings.items()
        if all(UNEDITED_SAMPLES in row["figures"] for row in rows.values())
    }
    for name, texts in masked.items():
        yield f"{name}, sampled / {UNEDITED_SAMPLES}", Texts(texts.rows, "sampled"), texts
    for name, texts in masked.items() if names[0] not in masked else ():
        yield f"{name}, {UNEDITED_SAMPLES} / {names[0]}, sampled", texts, Texts(first, "sampled")
    for i, base in enumerate(names):
        for name in names[i + 1 :] if i == 0 or base == CLONES else []:
            sides = (Texts(settings[each], "sampled") for each in (name, base))
            yield f"{name} / {base}, sampled", *sides
    for way in dict.fromkeys(way for row in first.values() for way in row["figures"]):
        asked = {seed: row for seed, row in first.items() if way in row["figures"]}
        if way not in {*NO_WAYS, "greedy", "sampled", UNEDITED_SAMPLES}:
            yield f"{names[0]}, {way} / sampled", Texts(asked, way), Texts(first, "sampled")


def nats_of_texts(texts: Texts, seeds: Sequence[int]) -> Float[np.ndarray, "S N"]:
    """-log p of each text to the reader, by the tokens that it was written with, as many in all texts.

    Not by those that it is read with: misspelt words are many, each likely after the one before.
    """
    return np.stack([nats_of_each(texts.rows[seed]["figures"][texts.way]) for seed in seeds])


def nats_of_each(figures: Mapping[str, Any]) -> Float[np.ndarray, " N"]:
    """The same of a run and a way to answer."""
    sums = unpack_numbers(figures["each"]["log_likelihoods"], "<f4").astype(float)
    return -sums / figures["tokens"]


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
