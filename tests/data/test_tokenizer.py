import pytest

from sequencematch.core.mdp import EVERYTHING
from sequencematch.data.tokenizer import EDITS, ByteTokenizer, CharTokenizer

SPECIALS = ["<pad>", "<bos>", "<eos>"]


def test_special_tokens_come_first_and_edits_last():
    tokenizer = CharTokenizer("ba", tuple(EDITS))
    assert tokenizer.symbols(range(tokenizer.vocab_size)) == [*SPECIALS, "a", "b", *EDITS]
    ids = [tokenizer.pad, tokenizer.bos, tokenizer.eos, *tokenizer.ordinary, *tokenizer.pops]
    assert ids == list(range(tokenizer.vocab_size))


def test_edits_that_are_left_out_have_no_id():
    assert CharTokenizer("ab", ()).vocab_size == CharTokenizer("ab").vocab_size - 1 == 5
    assert CharTokenizer("ab", ("<reset>",)).symbols([5]) == ["<reset>"]


def test_pops_do_not_depend_on_the_order_of_names():
    assert CharTokenizer("ab").pops == {5: 1}
    names = ("<reset>", "<bkspc4>", "<bkspc2>", "<bkspc>", "<bkspc>")
    assert CharTokenizer("ab", names).pops == {5: 1, 6: 2, 7: 4, 8: EVERYTHING}


def test_unknown_characters_are_named():
    with pytest.raises(ValueError, match=r"'xy' of 'axby' are not in the alphabet 'ab'$"):
        CharTokenizer("ba").encode("axby")


@pytest.mark.parametrize("unknown", [-1, 6])
def test_unknown_ids_are_named(unknown):
    with pytest.raises(ValueError, match=rf"unknown ids \[{unknown}\]: allowed are 0 <= id < 6$"):
        CharTokenizer("ab").decode([5, unknown])
    with pytest.raises(ValueError, match=r"unknown ids \[-1\]: allowed are 0 <= id < 260$"):
        ByteTokenizer().decode([5, -1])


def test_fingerprint_is_of_all_that_decides_ids():
    class LowerCase(CharTokenizer):
        """Encodes otherwise."""

    tokenizers = [
        CharTokenizer("ab"),
        CharTokenizer("abc"),
        CharTokenizer("ab", ("<reset>",)),
        LowerCase("ab"),
        ByteTokenizer(),
    ]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == len(tokenizers)
    assert CharTokenizer("ba").fingerprint == tokenizers[0].fingerprint


def test_bytes_of_a_character_that_was_cut_are_decoded_all_the_same():
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode("aé")
    assert tokenizer.symbols(ids) == ["a", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids[:2]) == "a\ufffd"
    assert tokenizer.decode([tokenizer.bos, *ids, *tokenizer.pops, tokenizer.eos]) == "aé"


def test_half_a_surrogate_pair_has_no_bytes():
    with pytest.raises(ValueError, match=r"^'\\ud800' is no text: 'utf-8' codec can't encode"):
        ByteTokenizer().encode("\ud800")
