"""What texts are like as a set: how varied they are, how much they repeat, how long they are.

Words are what white space separates, in lower case. A figure of nothing is None, but
for the overlap, which is 0.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

Figures = dict[str, float | None]
ENTROPIES = ("entropy_1", "entropy_2", "entropy_3", "entropy_4")  # of n-grams, by n
_OVERLAP = 4  # characters of the n-grams that answers and references are compared by
_WINDOW = 16  # words back in which a word is looked for


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return text.lower().split()


def ngrams(symbols: Sequence, n: int) -> Iterable[tuple]:
    """All n neighbours, in order."""
    return zip(*(symbols[i:] for i in range(n)), strict=False)


def ngram_entropy(texts: Sequence[str]) -> Figures:
    """Entropy H_n = -Σ p log p, in nats, of the word n-grams of all texts, and their mean, n = 1 to 4.

    Zhang et al. 2018; SM reports such an entropy in its table 2, and does not say which n. There is no
    mean where no text has four words.
    """
    found: Figures = {}
    for n, name in enumerate(ENTROPIES, 1):
        counts = Counter(chain.from_iterable(ngrams(words_of(text), n) for text in texts))
        p = np.array([*counts.values()], float) / max(counts.total(), 1)
        found[name] = float(0.0 - (p * np.log(p)).sum()) if len(p) else None
    known = [x for x in found.values() if x is not None]
    whole = sum(known) / len(ENTROPIES) if len(known) == len(ENTROPIES) else None
    return {"entropy": whole} | found


def diversity(texts: Sequence[str]) -> Figures:
    """Π over n = 2 to 4 of (distinct word n-grams / all), of each text, and the mean (Su et al. 2022).

    A text of fewer than 4 words has none, and is left out; `diverse_texts` says how many are not.
    """
    found = []
    for words in map(words_of, texts):
        if len(words) >= 4:
            lists = [[*ngrams(words, n)] for n in (2, 3, 4)]
            found.append(math.prod(len({*each}) / len(each) for each in lists))
    return {"diversity": _mean(found), "diverse_texts": len(found)}


def repetition(texts: Sequence[str]) -> Figures:
    """Share of words that stand among the 16 words before them (Welleck et al. 2020), of all texts."""
    repeats = total = 0
    for words in map(words_of, texts):
        total += len(words)
        repeats += sum(w in words[max(i - _WINDOW, 0) : i] for i, w in enumerate(words))
    return {"repetition": repeats / total if total else None}


def zipf(texts: Sequence[str]) -> Figures:
    """s of the line log frequency = c - s log rank that fits the words best (Holtzman et al. 2020).

    By least squares over all words; near 1 for what people write.
    """
    counts = sorted(Counter(chain.from_iterable(map(words_of, texts))).values(), reverse=True)
    if len(counts) < 2:
        return {"zipf": None}
    slope, _ = np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)
    return {"zipf": float(0.0 - slope)}


def length(texts: Sequence[str]) -> Figures:
    """Mean numbers of words and characters, and the number of texts without any word."""
    words = [len(words_of(text)) for text in texts]
    empty = sum(not n for n in words)
    return {"words": _mean(words), "characters": _mean([*map(len, texts)]), "empty_texts": empty}


def overlap(texts: Sequence[str], references: Sequence[str]) -> Figures:
    """Σ min(p, q) of the shares p and q of each n-gram of 4 characters in texts and references.

    1 less the total variation distance: 1 where both are made of the same, 0 where they share nothing.
    It says whether texts look like the data at all; it sees 4 characters at a time and is no substitute
    for MAUVE. Few texts look less alike than many.
    """
    p, q = (
        Counter(chain.from_iterable(ngrams(text, _OVERLAP) for text in each))
        for each in (texts, references)
    )
    n, m = p.total(), q.total()
    # Exactly summed: the order of a set of strings is another in each process.
    shared = math.fsum(min(p[g] / n, q[g] / m) for g in p.keys() & q.keys())
    return {"overlap": shared}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
