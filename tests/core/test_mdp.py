"""The action sets of a decision process."""

import numpy as np
import pytest

from sequencematch.core import mdp

PAD, BOS, EOS, BKSPC, A = range(5)
POP_TWO, POP_ALL = 5, 6
LETTERS = range(7, 20)


def test_legal_ordinary_and_popping_actions():
    process = mdp.make(5, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})
    assert process.legal.tolist() == [False, False, True, True, True]
    assert process.ordinary.tolist() == [False, False, False, False, True]
    assert process.pops.tolist() == [0, 0, 0, 1, 0]


def test_process_without_edits_pops_nothing():
    process = mdp.make(5, eos=EOS, pad=PAD, never=[BOS, BKSPC], edits={})
    assert process.legal.tolist() == [False, False, True, False, True]
    assert not process.pops.any()


def test_each_edit_pops_its_own_number():
    edits = {BKSPC: 1, POP_TWO: 2, POP_ALL: 99}
    process = mdp.make(20, eos=EOS, pad=PAD, never=[BOS], edits=edits)
    assert process.pops[[BKSPC, POP_TWO, POP_ALL, EOS]].tolist() == [1, 2, 99, 0]
    assert np.flatnonzero(process.ordinary).tolist() == [A, *LETTERS]


# Contradictions.

SOUND = {"eos": EOS, "pad": PAD, "never": [BOS], "edits": {BKSPC: 1}}


def test_padding_may_be_eos():
    """As in GPT-2: padding is known by its position, so its id is an action all the same."""
    process = mdp.make(8, eos=2, pad=2, never=[], edits={3: 1})
    assert process.legal.all() and not process.ordinary[[2, 3]].any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"never": [BOS, EOS]}, ["id 2", "eos", "never"]),
        ({"edits": {EOS: 1}}, ["id 2", "eos", "edits"]),
        ({"edits": {PAD: 1}}, ["id 0", "pad", "edits"]),
        ({"edits": {BOS: 1}}, ["id 1", "never", "edits"]),
        ({"edits": {BKSPC: 0}}, ["edits", "3: 0"]),
        ({"edits": {BKSPC: -1}}, ["edits", "3: -1"]),
        *(
            ({name: given}, [f"id {i} of {name}", "vocab_size=5"])
            for i in (-1, 5)
            for name, given in (("eos", i), ("pad", i), ("never", [i]), ("edits", {i: 1}))
        ),
    ],
)
def test_ids_that_contradict_each_other_are_named_in_one_line(changes, named):
    mdp.make(5, **SOUND)
    with pytest.raises(ValueError) as raised:
        mdp.make(5, **SOUND | changes)
    message = str(raised.value)
    assert all(name in message for name in named) and "\n" not in message
