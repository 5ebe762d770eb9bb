import random

import jax.numpy as jnp
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.types import Episode
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import BKSPC, BOS, EOS, PAD
from sequencematch.evaluate import generate
from sequencematch.evaluate.generate import (
    CHOICES,
    Answer,
    Generator,
    deletion_flags,
    surviving_text,
)
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from tests.evaluate.answers import EXAMPLES, MDP, PLAIN, POPS, TASK, TOKENIZER, ids


def test_surviving_text_is_a_stack_and_other_tokens_are_flagged_as_deleted():
    for seed in range(500):
        rng, stack = random.Random(seed), []
        actions = rng.choices(ids("abcabc<<2R"), k=rng.randrange(15))
        for time, action in enumerate(actions):
            if action in POPS:
                del stack[max(len(stack) - POPS[action], 0) :]
            else:
                stack.append(time)
        assert surviving_text(MDP, actions) == [actions[time] for time in stack]
        deleted = {t for t, action in enumerate(actions) if action not in POPS} - set(stack)
        assert [t for t, flag in enumerate(deletion_flags(MDP, actions)) if flag] == sorted(deleted)


@pytest.fixture(scope="module")
def generator():
    """(rows -> a generator with an untrained network, the parameters)."""
    edits = mdp.make(PLAIN.vocab_size, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})
    sizes = TransformerConfig(PLAIN.vocab_size, 1, 16, 2, 1, 16)
    graph, params = nnx.split(Transformer(sizes, nnx.Rngs(5)))
    limits = dict(prompt_slots=4, max_actions=6, seed=0)

    def make(rows, **bias):
        return Generator(graph, edits, TASK, PLAIN, rows=rows, **limits, **bias)

    return make, params


@pytest.mark.parametrize("choice", CHOICES)
def test_answers_do_not_depend_on_the_number_of_rows(generator, choice):
    make, params = generator
    answers = [list(make(rows).answers(params, EXAMPLES, choice)) for rows in (4, 9)]
    assert answers[0] == answers[1]
    assert [a.example for a in answers[0]] == EXAMPLES
    assert len({tuple(a.actions) for a in answers[0]}) > 1
    for a in answers[0]:
        assert a.finished == (a.actions[-1] == EOS) and 1 <= len(a.actions) <= 6
        assert a.text == TOKENIZER.decode(surviving_text(MDP, a.actions))


def test_edit_bias_makes_edits_certain_or_impossible(generator):
    make, params = generator
    for choice, bias in (("greedy", 60.0), ("sampled", -60.0)):
        answers = make(4, edit_bias=bias).answers(params, EXAMPLES[:4], choice)
        assert {a == BKSPC for answer in answers for a in answer.actions} == {bias > 0}


def test_samples_are_a_function_of_the_seed_and_differ_between_rows(generator):
    make, params = generator
    same, rows = [EXAMPLES[0]] * 8, make(4)
    one, two = (list(rows.answers(params, same, "sampled")) for _ in range(2))
    assert one == two
    assert len({tuple(a.actions) for a in one}) > 4
    assert one[:4] != one[4:]


@pytest.mark.parametrize(
    ("actions", "text", "right", "finished"),
    [
        ("ab$", "ab", True, True),
        ("ac<b$", "ab", True, True),
        ("abb$", "abb", False, True),
        ("ab", "ab", False, False),
        ("$", "", False, True),
    ],
)
def test_answer_is_right_if_its_surviving_text_is_and_eos_ended_it(
    generator, monkeypatch, actions, text, right, finished
):
    make, params = generator
    row = [BOS, *ids("ab>"), *ids(actions)]
    tokens = jnp.array([row + [PAD] * (10 - len(row))], jnp.int32)
    start, end = jnp.array([3], jnp.int32), jnp.array([len(row) - 1], jnp.int32)
    episode = Episode(tokens, tokens, tokens > 0, start, end)
    monkeypatch.setattr(generate.sampler, "sample", lambda *_, **__: (episode, None))
    (found,) = make(1).answers(params, [Example("ab>", "ab")], "greedy")
    assert found == Answer(Example("ab>", "ab"), ids(actions), text, right, finished)
