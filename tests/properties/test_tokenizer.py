"""Encoding and decoding of any text over any alphabet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequencematch.data.tokenizer import EDITS, SPECIALS, CharTokenizer
from tests.properties.given import examples, message_of, texts

edits = st.lists(st.sampled_from(sorted(EDITS))).map(tuple)


@st.composite
def tokenizers(draw):
    """Any alphabet, in any order, some of it twice, with any edits."""
    return CharTokenizer(draw(texts), draw(edits))


@examples(30, 1500)
@given(st.data(), tokenizers())
def test_decoding_inverts_encoding(data, tokenizer):
    """Also of a text that spells a special token: it is encoded as its characters."""
    text = data.draw(texts | st.lists(st.sampled_from(tokenizer.alphabet or "a")).map("".join))
    if not set(text) <= set(tokenizer.alphabet):
        with pytest.raises(ValueError) as raised:
            tokenizer.encode(text)
        unknown = sorted(set(text) - set(tokenizer.alphabet))
        assert f"characters {''.join(unknown)!r} of {text!r} are not in" in message_of(raised.value)
        return
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.symbols(ids) == list(text)
    assert all(len(SPECIALS) <= i < tokenizer.vocab_size for i in ids)
    assert not set(ids) & set(tokenizer.pops)


@examples(30, 1500)
@given(st.data(), tokenizers())
def test_ids_have_symbols_and_others_are_refused(data, tokenizer):
    """Only characters are in the decoded text; an id outside the vocabulary is refused."""
    within = st.integers(0, tokenizer.vocab_size - 1)
    ids = data.draw(st.lists(within) | st.lists(within | st.integers()))
    if not all(0 <= i < tokenizer.vocab_size for i in ids):
        with pytest.raises(ValueError) as raised:
            tokenizer.decode(ids)
        assert f"0 <= id < {tokenizer.vocab_size}" in message_of(raised.value)
        return
    symbols = tokenizer.symbols(ids)
    characters = [i for i in ids if tokenizer.encode(tokenizer.decode([i])) == [i]]
    assert tokenizer.encode(tokenizer.decode(ids)) == characters
    assert len(symbols) == len(ids)
    others = {s for i, s in zip(ids, symbols, strict=True) if i not in characters}
    assert others <= {*SPECIALS, *EDITS}


@examples(20, 500)
@given(st.data(), tokenizers())
def test_ids_of_characters_depend_on_their_set_alone(data, tokenizer):
    """Neither on the order of the alphabet nor on the edits, whose ids come after it."""
    shuffled = "".join(data.draw(st.permutations(tokenizer.alphabet * 2)))
    other = CharTokenizer(shuffled, data.draw(edits))
    last = [name for name in EDITS if name in other.edits]
    assert other.symbols(range(other.vocab_size)) == [*SPECIALS, *sorted(set(shuffled)), *last]
    assert other.encode(shuffled) == tokenizer.encode(shuffled)
    assert {s: EDITS[s] for s in tokenizer.edits} == {
        tokenizer.symbols([i])[0]: pops for i, pops in tokenizer.pops.items()
    }
