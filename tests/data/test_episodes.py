import numpy as np
import pytest

from sequencematch.data.episodes import encode_prompt, lay_out
from sequencematch.data.noise import Decisions
from sequencematch.data.tokenizer import BOS, EOS, PAD
from tests.data.doubling import TOKENIZER, batches, rows

(BKSPC,) = TOKENIZER.pops


def test_label_of_a_decision_is_one_slot_before_its_action():
    counts = [False, True, True, True]
    decisions = Decisions([7, BKSPC, 6, EOS], [6, BKSPC, 6, EOS], counts)
    episode = lay_out([BOS, 5], decisions, slots=8)
    assert episode.tokens.tolist() == [BOS, 5, 7, BKSPC, 6, EOS, PAD, PAD]
    assert episode.labels.tolist() == [EOS, 6, BKSPC, 6, EOS, EOS, EOS, EOS]
    assert episode.imitate.tolist() == [False, *counts, False, False, False]
    assert (episode.start, episode.end) == (1, 5)


def test_actions_that_do_not_fit_are_dropped_and_change_no_others():
    for whole, cut in zip(rows(batches(slots=99), 4), rows(batches(slots=9), 4), strict=True):
        assert cut.start == whole.start
        assert cut.end == min(whole.end, 8)
        assert (cut.tokens == np.where(np.arange(9) <= whole.end, whole.tokens[:9], PAD)).all()
        assert (cut.labels[:8] == whole.labels[:8]).all() and cut.labels[8] == EOS
        assert (cut.imitate[:8] == whole.imitate[:8]).all() and not cut.imitate[8]


def test_prompt_of_just_the_slots_is_encoded():
    tokens, start = encode_prompt(TOKENIZER, "1+1=", 5)
    assert TOKENIZER.symbols(tokens) == ["<bos>", *"1+1="]
    assert start == 4 and tokens.dtype == np.int32


@pytest.mark.parametrize(
    "text, message",
    [
        ("12+12=", "'12[+]12=' is too long: 6 characters, at most 4 fit"),
        ("1+x=", "'x' of '1[+]x='"),
    ],
)
def test_impossible_prompt_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        encode_prompt(TOKENIZER, text, 5)
    assert len(str(raised.value).splitlines()) == 1
