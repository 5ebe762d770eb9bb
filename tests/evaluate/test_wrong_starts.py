"""Wrong starts are wrong for certain, and the model goes on from them."""

import numpy as np
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.data.task import Example
from sequencematch.evaluate.edits import possible_texts
from sequencematch.evaluate.generate import Generator, make_decodings
from sequencematch.evaluate.wrong_starts import answer_wrong_starts, draw_wrong_starts
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from tests.evaluate.answers import BKSPC, BOS, EOS, EXAMPLES, PAD, PLAIN, TASK
from tests.marks import stress

DECISIONS = mdp.make(PLAIN.vocab_size, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})


@pytest.fixture(scope="module")
def generator():
    sizes = TransformerConfig(PLAIN.vocab_size, 1, 16, 2, 1, 16)
    graph, params = nnx.split(Transformer(sizes, nnx.Rngs(5)))
    usual = make_decodings(DECISIONS, threshold=0.5, bias=2.0, temperature=1.0, memory=True)
    limits = dict(prompt_slots=4, max_actions=8, rows=4, seed=0)
    return Generator(graph, DECISIONS, TASK, PLAIN, decodings=usual, **limits), params


def test_no_right_answer_begins_with_a_wrong_start(generator):
    examples = EXAMPLES * 20
    starts = draw_wrong_starts(generator[0], examples, 3, seed=0)
    assert starts.shape == (len(examples), 3)
    for start, example in zip(starts, examples, strict=True):
        assert not possible_texts(TASK, PLAIN, DECISIONS, example)([int(start[0])])
    assert {*starts.ravel().tolist()} == {*TASK.confusable(PLAIN)}  # all of them are drawn
    np.testing.assert_array_equal(starts, draw_wrong_starts(generator[0], examples, 3, seed=0))
    assert (starts != draw_wrong_starts(generator[0], examples, 3, seed=1)).any()


def test_answers_begin_with_them_and_are_wrong_unless_they_are_taken_back(generator):
    make, params = generator
    asked = (make, params, EXAMPLES)
    for choice, length in (("greedy", 1), ("sampled", 2)):
        starts = draw_wrong_starts(make, EXAMPLES, length, seed=0).tolist()
        answers = answer_wrong_starts(*asked, choice, length, seed=0)
        assert [a.actions[:length] for a in answers] == starts
        assert [a.example for a in answers] == EXAMPLES
        assert not any(a.right and BKSPC not in a.actions for a in answers)
    assert any(BKSPC in a.actions for a in answers)


@pytest.mark.parametrize("choice", [stress("greedy"), "sampled"])
def test_an_answer_begun_with_its_own_actions_is_itself(generator, choice):
    make, params = generator
    alone = [*make.answers(params, EXAMPLES, choice)]
    begun = np.array([a.actions[:1] for a in alone], np.int32)
    assert [*make.answers(params, EXAMPLES, choice, begun)] == alone


def test_a_task_whose_answers_may_begin_with_anything_has_none(generator):
    letters = PLAIN.decode([*TASK.confusable(PLAIN)])
    any_start = Example("a>", letters[0], tuple(letters))
    with pytest.raises(ValueError, match="'a>' may begin with any token"):
        draw_wrong_starts(generator[0], [any_start], 1, seed=0)
