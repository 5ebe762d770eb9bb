import pytest

from sequencematch.core.mdp import EVERYTHING
from sequencematch.data.tokenizer import BKSPC, BOS, EOS, PAD, SPECIALS, CharTokenizer


def test_special_tokens_come_first():
    assert (PAD, BOS, EOS, BKSPC) == (0, 1, 2, 3)
    assert CharTokenizer("ab").symbols(range(4)) == list(SPECIALS)


def test_pops_do_not_depend_on_the_order_of_names():
    assert CharTokenizer("ab").pops == {BKSPC: 1}
    names = ("<reset>", "<bkspc4>", "<bkspc2>", "<bkspc>", "<bkspc>")
    assert CharTokenizer("ab", names).pops == {BKSPC: 1, 6: 2, 7: 4, 8: EVERYTHING}


def test_unknown_characters_are_named():
    with pytest.raises(ValueError, match=r"'xy' of 'axby' are not in the alphabet 'ab'$"):
        CharTokenizer("ba").encode("axby")


@pytest.mark.parametrize("unknown", [-1, 6])
def test_unknown_ids_are_named(unknown):
    with pytest.raises(ValueError, match=rf"unknown ids \[{unknown}\]: allowed are 0 <= id < 6$"):
        CharTokenizer("ab").decode([5, unknown])
