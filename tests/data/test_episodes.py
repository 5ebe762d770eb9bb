import itertools

import numpy as np
import pytest

from sequencematch.data.episodes import (
    answer_ids,
    clean_ids,
    encode_prompt,
    lay_out,
    prompt_ids,
    round_slots,
)
from sequencematch.data.noise import Decisions
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import ByteTokenizer
from tests.data.doubling import EXAMPLES, PROMPT_SLOTS, TOKENIZER, batches, rows
from tests.data.subwords import Subwords

BOS, EOS, PAD = TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.pad
(BKSPC,) = TOKENIZER.pops
SUBWORDS = Subwords(("a", "b", "ab", "ba", "abb"))


def test_label_of_a_decision_is_one_slot_before_its_action():
    counts = [False, True, True, True]
    decisions = Decisions([7, BKSPC, 6, EOS], [6, BKSPC, 6, EOS], counts)
    episode = lay_out(TOKENIZER, [BOS, 5], decisions, slots=8)
    assert episode.tokens.tolist() == [BOS, 5, 7, BKSPC, 6, EOS, PAD, PAD]
    assert episode.labels.tolist() == [EOS, 6, BKSPC, 6, EOS, EOS, EOS, EOS]
    assert episode.imitate.tolist() == [False, *counts, False, False, False]
    assert (episode.start, episode.end) == (1, 5)


def test_actions_that_do_not_fit_are_dropped_and_change_no_others():
    slots = np.arange(PROMPT_SLOTS + 2)
    for whole, cut in zip(rows(batches(slots=99), 4), rows(batches(slots=9), 4), strict=True):
        assert cut.start == whole.start
        end = cut.end
        assert end == min(whole.end, cut.start + 2)
        assert (cut.tokens == np.where(slots <= end, whole.tokens[:9], PAD)).all()
        assert (cut.labels == np.where(slots < end, whole.labels[:9], EOS)).all()
        assert (cut.imitate == ((slots < end) & whole.imitate[:9])).all()


def test_prompt_of_just_the_slots_is_encoded():
    tokens, start = encode_prompt(TOKENIZER, "1+1=", 5)
    assert TOKENIZER.symbols(tokens) == ["<bos>", *"1+1="]
    assert start == 4 and tokens.dtype == np.int32


@pytest.mark.parametrize(
    "text, message",
    [
        ("12+12=", "'12[+]12=' is too long: 7 tokens, <bos> included, at most 5 fit"),
        ("1+x=", "'x' of '1[+]x='"),
    ],
)
def test_impossible_prompt_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        encode_prompt(TOKENIZER, text, 5)
    assert len(str(raised.value).splitlines()) == 1


def test_without_a_bos_a_prompt_begins_with_its_own_token_and_none_is_refused():
    assert prompt_ids(SUBWORDS, "aba") == SUBWORDS.encode("aba")
    tokens, start = encode_prompt(SUBWORDS, "aba", 4)
    assert start == 1 and tokens.tolist() == [*SUBWORDS.encode("aba"), 0, 0]
    with pytest.raises(ValueError, match="^prompt '' has no tokens, and the tokenizer no <bos>"):
        prompt_ids(SUBWORDS, "")
    assert prompt_ids(TOKENIZER, "") == [BOS]


def words(longest):
    return ["".join(w) for n in range(longest + 1) for w in itertools.product("ab", repeat=n)]


def test_ids_of_prompt_and_answer_spell_both_and_those_of_the_prompt_are_its_own():
    """As when sampling: the model sees a prompt before there is any answer."""
    found = {True: 0, False: 0}
    for prompt, text in itertools.product(words(4), words(4)):
        before, answer = SUBWORDS.encode(prompt), answer_ids(SUBWORDS, prompt, text)
        whole = SUBWORDS.encode(prompt + text)
        assert SUBWORDS.decode([*before, *answer.ids]) == prompt + text
        assert answer.is_apart == (whole[: len(before)] != before)
        assert answer.ids == (SUBWORDS.encode(text) if answer.is_apart else whole[len(before) :])
        found[answer.is_apart] += 1
    assert min(found.values()) > 100


@pytest.mark.parametrize("tokenizer", [TOKENIZER, ByteTokenizer()])
def test_characters_and_bytes_are_never_encoded_apart(tokenizer):
    for example in EXAMPLES:
        found = answer_ids(tokenizer, example.prompt, example.completion)
        assert found == (tokenizer.encode(example.completion), False)


def test_eos_ends_a_completion_unless_it_is_cut():
    ids = TOKENIZER.encode("12")
    assert clean_ids(TOKENIZER, Example("6+6=", "12")) == [*ids, EOS]
    assert clean_ids(TOKENIZER, Example("6+6=", "12", cut=True)) == ids


def test_padding_is_known_by_its_place_where_it_is_eos():
    end, text = SUBWORDS.eos, SUBWORDS.encode("abb")
    decisions = Decisions([*text, end], [*text, end], [True] * 2)
    episode = lay_out(SUBWORDS, SUBWORDS.encode("a"), decisions, slots=6)
    assert episode.tokens.tolist() == [1, *text, end, end, end, end]
    assert (episode.start, episode.end) == (0, 2)


def test_lengths_are_rounded_up_by_a_quarter_at_most():
    found = [round_slots(n) for n in range(1, 1025)]
    assert all(n <= each < max(n + 8, 1.25 * n + 1) for n, each in enumerate(found, 1))
    assert len({*found}) == 24 and found == sorted(found)
