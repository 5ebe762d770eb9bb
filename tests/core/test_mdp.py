"""The action sets of a decision process."""

import numpy as np

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
