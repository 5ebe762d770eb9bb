"""BLEU by a plain count, ROUGE by hand, and what is said where a package is missing."""

import math
import sys
from collections import Counter

import pytest

from sequencematch.evaluate import likeness
from sequencematch.evaluate.diversity import ngrams

TEXTS = ["the cat sat on the mat today", "a dog ran off"]
REFERENCES = [
    ["the cat sat on a mat today", "on the mat the cat sat today"],
    ["a dog ran off home quickly"],
]


def bleu(texts, references):
    """Papineni et al. 2002, without smoothing: every n-gram order occurs here."""
    matches, totals, made, real = [0] * 4, [0] * 4, 0, 0
    for text, each in zip(texts, references, strict=True):
        words, others = text.split(), [reference.split() for reference in each]
        made += len(words)
        real += min((abs(len(o) - len(words)), len(o)) for o in others)[1]
        for n in range(1, 5):
            counts = Counter(ngrams(words, n))
            most = Counter()
            for other in others:
                most |= Counter(ngrams(other, n))
            matches[n - 1] += (counts & most).total()
            totals[n - 1] += counts.total()
    precision = math.exp(sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / 4)
    return 100 * precision * min(1.0, math.exp(1 - real / made))


def test_bleu_is_that_of_the_paper():
    found = likeness.bleu_and_chrf(TEXTS, REFERENCES)
    assert found["bleu"] == pytest.approx(bleu(TEXTS, REFERENCES))
    same = likeness.bleu_and_chrf(TEXTS, [[text] for text in TEXTS])
    assert same["bleu"] == pytest.approx(100) and same["chrf"] == pytest.approx(100)
    assert 0 < found["chrf"] < 100


def chrf(text, reference):
    """Popović 2015: F of n-grams of characters without white space, of precision and recall that are
    means over n = 1 to 6; recall counts twice as much."""
    precision, recall = [], []
    for n in range(1, 7):
        made, real = (Counter(ngrams(t.replace(" ", ""), n)) for t in (text, reference))
        if made and real:
            precision.append((made & real).total() / made.total())
            recall.append((made & real).total() / real.total())
    p, r = (sum(x) / len(x) for x in (precision, recall))
    return 100 * 5 * p * r / (4 * p + r)


@pytest.mark.parametrize("text, reference", [("the cat sat", "the cats at home"), ("abc", "abd")])
def test_chrf_is_that_of_the_paper(text, reference):
    found = likeness.bleu_and_chrf([text], [[reference]])
    assert found["chrf"] == pytest.approx(chrf(text, reference))


def test_rouge_takes_the_best_reference():
    found = likeness.rouge(["a b c"], [["x y", "a b d e"]])
    assert found["rouge1"] == pytest.approx(2 * (2 / 3 * 2 / 4) / (2 / 3 + 2 / 4))
    assert found["rouge2"] == pytest.approx(2 * (1 / 2 * 1 / 3) / (1 / 2 + 1 / 3))
    assert found["rougeL"] == found["rouge1"]


def test_self_bleu_is_high_where_texts_are_alike():
    alike = likeness.self_bleu(["the cat sat on the mat"] * 3)["self_bleu"]
    assert alike == pytest.approx(100) and likeness.self_bleu(TEXTS)["self_bleu"] < 30
    assert (
        likeness.self_bleu(["one"]) == likeness.self_bleu(["one", "", " "]) == {"self_bleu": None}
    )
    assert likeness.self_bleu(["a b c d e", "", "a b c d e"])["self_bleu"] == pytest.approx(100)
    some = ["a b c d e", "a b c d f g", "b c d e a b c d"]  # no order is without a match
    each = [bleu([some[i]], [[*some[:i], *some[i + 1 :]]]) for i in range(3)]
    assert likeness.self_bleu(some)["self_bleu"] == pytest.approx(sum(each) / 3)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ValueError, match=r"needs sacrebleu.*pip install 'sequencematch\[text\]'"):
        likeness.self_bleu(TEXTS)
