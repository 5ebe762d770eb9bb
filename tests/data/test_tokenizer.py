import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequencematch.core.mdp import EVERYTHING
from sequencematch.data.tokenizer import BKSPC, BOS, EDITS, EOS, PAD, SPECIALS, CharTokenizer

TOKENIZER = CharTokenizer(string.printable)


def test_the_specials_come_first():
    assert (PAD, BOS, EOS, BKSPC) == (0, 1, 2, 3)
    assert TOKENIZER.symbols(range(4)) == list(SPECIALS)


@given(st.text(string.printable))
def test_decoding_undoes_encoding(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.symbols(ids) == list(text)
    assert all(len(SPECIALS) <= i < TOKENIZER.vocab_size for i in ids)


@given(st.text(string.printable), st.lists(st.integers(0, 3)))
def test_decoding_skips_specials(text, specials):
    assert TOKENIZER.decode([*specials, *TOKENIZER.encode(text), *specials]) == text


@given(st.permutations("gfedcba"))
def test_ids_do_not_depend_on_the_order_of_the_alphabet(letters):
    tokenizer = CharTokenizer("".join(letters) * 2)
    assert tokenizer.encode("abcdefg") == list(range(4, 11))
    assert tokenizer.vocab_size == 11


@given(st.sets(st.sampled_from(sorted(EDITS))), st.text("abc"))
def test_further_edits_stand_after_the_alphabet_and_are_no_text(names, text):
    plain, tokenizer = CharTokenizer("abc"), CharTokenizer("abc", tuple(names))
    further = [name for name in EDITS if name in names - {"<bkspc>"}]
    ids = range(plain.vocab_size, tokenizer.vocab_size)
    assert tokenizer.symbols(ids) == further
    assert tokenizer.symbols(range(plain.vocab_size)) == plain.symbols(range(plain.vocab_size))
    assert tokenizer.encode(text) == plain.encode(text)
    assert tokenizer.decode([*ids, *tokenizer.encode(text), *ids]) == text
    assert dict(zip(tokenizer.symbols(tokenizer.pops), tokenizer.pops.values(), strict=True)) == {
        name: EDITS[name] for name in names
    }


def test_what_edits_pop():
    assert CharTokenizer("ab").pops == {BKSPC: 1}
    names = ("<reset>", "<bkspc4>", "<bkspc2>", "<bkspc>", "<bkspc>")
    assert CharTokenizer("ab", names).pops == {BKSPC: 1, 6: 2, 7: 4, 8: EVERYTHING}


def test_unknown_characters_are_named():
    with pytest.raises(ValueError, match=r"'xy' of 'axby' are not in the alphabet 'ab'$"):
        CharTokenizer("ba").encode("axby")
