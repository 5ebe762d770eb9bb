import pytest

from sequencematch.core.mdp import EVERYTHING
from sequencematch.data.tokenizer import BOS, EDITS, EOS, PAD, SPECIALS, CharTokenizer


def test_special_tokens_come_first_and_edits_last():
    assert (PAD, BOS, EOS) == (0, 1, 2)
    tokenizer = CharTokenizer("ba", tuple(EDITS))
    assert tokenizer.symbols(range(tokenizer.vocab_size)) == [*SPECIALS, "a", "b", *EDITS]


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
