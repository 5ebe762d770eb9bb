"""The names of ways to answer."""

import math

import pytest

from sequencematch.rollout.decoding import Decoding
from sequencematch.rollout.decodings import parse_decoding

USUAL = dict(threshold=0.4, bias=1.0, temperature=0.9, memory=True)
DRAWN, GREEDY = Decoding(None, 1.0, 0.9, True), Decoding(0.4, 1.0, memory=True)

NAMES = {
    "greedy": GREEDY,
    "sampled": DRAWN,
    "unedited": Decoding(bias=-math.inf),
    "temperature=0.5": DRAWN._replace(temperature=0.5),
    "top_p=0.95": DRAWN._replace(truncate=(("top_p", 0.95),)),
    # In the order in which they are applied, whatever the order of the name.
    "min_p=0.1, top_k=50": DRAWN._replace(truncate=(("top_k", 50.0), ("min_p", 0.1))),
    "repetition=1.2": GREEDY._replace(repetition=1.2),
    "repetition=1.2,typical=0.9": DRAWN._replace(repetition=1.2, truncate=(("typical", 0.9),)),
    "top_k=4,contrastive=0.6": GREEDY._replace(contrastive=(4, 0.6)),
    "best_of=8": DRAWN._replace(best_of=8),
}

FAULTS = {
    "beam": "'beam' is none of greedy, sampled, unedited, or temperature=X",
    "topp=0.9": "did you mean 'top_p'?",
    "top_p=2": "top_p=2 must be in (0, 1]",
    "top_k=2.5": "top_k=2.5 must be a whole number >= 1",
    "temperature=nan": "temperature=nan must be > 0",
    "temperature=1e-46": "temperature=1e-46 must be > 0, as a float32",
    "top_k=4,top_p=1e-50": "top_p=1e-50 must be in (0, 1], as a float32",
    "min_p": "min_p= must be in [0, 1]",
    "top_k=4,top_k=2": "top_k is there twice",
    "contrastive=0.6": "needs top_k",
    "contrastive=0.6,top_k=4,best_of=2": "goes with nothing else",
    "": "'' is none of",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_a_way_to_answer(name):
    assert parse_decoding(name, **USUAL) == NAMES[name]


@pytest.mark.parametrize("name", FAULTS)
def test_another_name_is_refused_with_what_there_is(name):
    with pytest.raises(ValueError, match="decoding ") as error:
        parse_decoding(name, **USUAL)
    assert FAULTS[name] in str(error.value) and "\n" not in str(error.value)
