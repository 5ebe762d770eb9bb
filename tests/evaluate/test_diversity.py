"""What texts are like, by values worked out by hand."""

import math
import subprocess
import sys
from functools import partial

import pytest

from sequencematch.evaluate import diversity
from sequencematch.evaluate.sections import decimal

TEXTS = ["a b a b", "", "A c"]


def test_words_are_what_white_space_separates_in_lower_case():
    assert diversity.words_of("A\nb  C ") == ["a", "b", "c"]


def test_entropy_is_of_the_ngrams_of_all_texts():
    found = diversity.ngram_entropy(TEXTS)
    words = {"a": 3 / 6, "b": 2 / 6, "c": 1 / 6}
    assert found["entropy_1"] == pytest.approx(-sum(p * math.log(p) for p in words.values()))
    pairs = [2 / 4, 1 / 4, 1 / 4]  # a b, b a, a c: none goes from one text to the next
    assert found["entropy_2"] == pytest.approx(-sum(p * math.log(p) for p in pairs))
    assert found["entropy_3"] == pytest.approx(math.log(2)) and found["entropy_4"] == 0
    assert found["entropy"] == pytest.approx(sum(found[f"entropy_{n}"] for n in range(1, 5)) / 4)
    few = diversity.ngram_entropy(["", "a b"])  # a mean of some would not be comparable
    assert few["entropy"] is None and few["entropy_1"] == pytest.approx(math.log(2))


def test_nothing_is_shown_with_the_sign_of_minus_zero():
    assert str(diversity.ngram_entropy(["a a a a"])["entropy_4"]) == "0.0"
    zipf = diversity.zipf(["one two three"])["zipf"]  # all are as frequent
    assert zipf == pytest.approx(0, abs=1e-9) and decimal(zipf) == decimal(-1e-9) == "0.00"


def test_diversity_is_the_product_of_distinct_shares_of_each_text():
    text = "a b a b a"  # 2 of 4 pairs, 2 of 3 triples, 2 of 2 fours
    assert diversity.diversity([text])["diversity"] == pytest.approx(2 / 4 * 2 / 3)
    found = diversity.diversity([text, "a b c d", "a b c"])
    assert found == {"diversity": pytest.approx((1 / 3 + 1) / 2), "diverse_texts": 2}
    assert diversity.diversity(["a"]) == {"diversity": None, "diverse_texts": 0}


def test_repetition_looks_sixteen_words_back():
    assert diversity.repetition(TEXTS) == {"repetition": 2 / 6}
    far = " ".join(map(str, range(16)))
    assert diversity.repetition([f"x {far} x"]) == {"repetition": 0.0}
    assert diversity.repetition([f"{far} 0"]) == {"repetition": 1 / 17}
    assert diversity.repetition([""]) == {"repetition": None}


@pytest.mark.parametrize("s", [1, 2])
def test_zipf_finds_the_exponent_of_a_power_law(s):
    """Words that stand 3600 / rank^s times."""
    text = " ".join(f"w{rank} " * (3600 // rank**s) for rank in (1, 2, 3, 4, 5, 6))
    assert diversity.zipf([text])["zipf"] == pytest.approx(s, abs=1e-9)
    assert diversity.zipf(["a a a"]) == {"zipf": None}


def test_length_counts_words_characters_and_empty_texts():
    assert diversity.length(TEXTS) == {
        "words": 2.0,
        "characters": 10 / 3,
        "empty_texts": 1,
    }


def test_overlap_does_not_depend_on_the_order_of_a_set():
    """That of strings is another in each process of Python."""
    code = (
        "from sequencematch.evaluate.diversity import overlap\nfrom random import Random\n"
        "r = Random(0)\n"
        "a, b = ([''.join(r.choices('abc', k=99)) for _ in range(7)] for _ in range(2))\n"
        "print(overlap(a, b))"
    )
    run = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, check=True)
    assert len({run(env={"PYTHONHASHSEED": str(seed)}).stdout for seed in range(4)}) == 1


def test_overlap_is_one_for_equal_sets_and_zero_for_none_in_common():
    assert diversity.overlap(["abcde", "x"], ["abcde"]) == {"overlap": 1.0}
    assert diversity.overlap(["abcd"], ["abce"]) == {"overlap": 0.0}
    # abcd, bcde against abcd, bcdx: a half in common.
    assert diversity.overlap(["abcde"], ["abcdx"]) == {"overlap": 0.5}
    assert diversity.overlap([""], ["abcd"]) == {"overlap": 0.0}
