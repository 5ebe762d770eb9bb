import copy
import functools
import math
import random

import jax.numpy as jnp
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.types import Episode
from sequencematch.data.task import Example
from sequencematch.evaluate import generate
from sequencematch.evaluate.accuracy import accuracy, right_within
from sequencematch.evaluate.generate import (
    VALIDATED,
    Answer,
    Generator,
    deletion_flags,
    make_decodings,
    surviving_text,
)
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from sequencematch.rollout import search
from sequencematch.rollout.decoding import Decoding
from sequencematch.train.mesh import batch_sharding, make_mesh
from tests.evaluate.answers import (
    BKSPC,
    BOS,
    EOS,
    EXAMPLES,
    MDP,
    PAD,
    PLAIN,
    POPS,
    TASK,
    TOKENIZER,
    ids,
)
from tests.marks import stress


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


DECISIONS = mdp.make(PLAIN.vocab_size, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})
USUAL = dict(threshold=0.5, bias=0.0, temperature=1.0, memory=True)


@pytest.fixture(scope="module")
def generator():
    """(rows and parts of the decodings -> a generator with an untrained network, the parameters).

    Generators of equal arguments are one, so tests that change it take a copy.
    """
    sizes = TransformerConfig(PLAIN.vocab_size, 1, 16, 2, 1, 16)
    graph, params = nnx.split(Transformer(sizes, nnx.Rngs(5)))

    @functools.cache
    def make(rows, max_actions=6, **changes):
        limits = dict(prompt_slots=4, max_actions=max_actions, rows=rows, seed=0)
        decodings = make_decodings(DECISIONS, **USUAL | changes)
        return Generator(graph, DECISIONS, TASK, PLAIN, **limits, decodings=decodings)

    return make, params


def test_each_way_to_answer_takes_its_part_of_the_configuration():
    found = make_decodings(DECISIONS, threshold=0.3, bias=1.0, temperature=0.7, memory=True)
    assert found == {
        "greedy": Decoding(0.3, 1.0, 0.0, True),
        "sampled": Decoding(None, 1.0, 0.7, True),
        "unedited": Decoding(bias=-math.inf),
    }
    # Without edits there is nothing to mask and nothing to remember.
    plain = mdp.make(PLAIN.vocab_size, eos=EOS, pad=PAD, never=[BOS, BKSPC], edits={})
    found = make_decodings(plain, **USUAL)
    assert tuple(found) == VALIDATED and not any(way.memory for way in found.values())


# The largest edit bias is all that sets unedited answers apart from greedy ones.
choices = pytest.mark.parametrize(
    "choice",
    ["sampled", stress("greedy"), stress("unedited")],
)


@pytest.mark.stress
@choices
def test_answers_do_not_depend_on_the_number_of_rows(generator, choice):
    make, params = generator
    answers = [list(make(rows).answers(params, EXAMPLES, choice)) for rows in (4, 9)]
    assert answers[0] == answers[1]
    assert [a.example for a in answers[0]] == EXAMPLES
    assert len({tuple(a.actions) for a in answers[0]}) > 1
    for a in answers[0]:
        assert a.finished == (a.actions[-1] == EOS) and 1 <= len(a.actions) <= 6
        assert a.text == TOKENIZER.decode(surviving_text(MDP, a.actions))


@pytest.mark.stress
def test_edit_bias_makes_edits_certain_or_impossible(generator):
    make, params = generator
    for choice, bias in (("greedy", 60.0), ("sampled", -60.0)):
        answers = make(4, bias=bias, memory=False).answers(params, EXAMPLES[:4], choice)
        assert {a == BKSPC for answer in answers for a in answer.actions} == {bias > 0}


@pytest.mark.stress
def test_unedited_answers_have_no_edits_whatever_the_bias(generator):
    make, params = generator
    biased = make(9, bias=60.0)
    without, plain = (
        [a.actions for a in make.answers(params, EXAMPLES, choice)]
        for make, choice in ((biased, "unedited"), (make(9, bias=-60.0), "greedy"))
    )
    assert without == plain and not any(BKSPC in actions for actions in without)


@pytest.mark.stress
@choices
def test_right_within_a_budget_is_that_of_answers_of_so_many_actions(generator, choice):
    """Of every way to answer, also where draws and memory decide."""
    make, params = generator

    def answers(limit, choice):
        limited = copy.copy(make(9, max_actions=limit, bias=1.0))
        # The network is untrained: every answer that ends counts as right.
        limited.task = TASK._replace(check=lambda example, text: True)
        return list(limited.answers(params, EXAMPLES * 5, choice))

    shares = right_within(answers(12, choice), (3, 5))
    assert shares == {str(n): accuracy(answers(n, choice))["accuracy"] for n in (3, 5)}
    assert choice != "sampled" or 0 < shares["3"] < shares["5"]


def test_an_answer_is_finished_at_its_end_or_at_the_length_where_answers_stop(generator):
    make, _ = generator
    stops = copy.copy(make(4))
    stops._stop_at = 2
    for actions, whole, stopped in (("ab", 0, 1), ("a$", 1, 1), ("ab<", 0, 0), ("a<ab", 0, 1)):
        found = [each.is_finished(ids(actions)) for each in (make(4), stops)]
        assert found == [bool(whole), bool(stopped)] and stops.text(ids("ac<b")) == "ab"


@pytest.mark.stress
@pytest.mark.parametrize("choice", ["greedy", "sampled"])
def test_answers_do_not_depend_on_the_devices(generator, choice):
    make, params = generator
    plain, spread = make(8), copy.copy(make(8))
    spread.sharding = batch_sharding(make_mesh(4, 1))
    expected = [a.actions for a in plain.answers(params, EXAMPLES, choice)]
    assert [a.actions for a in spread.answers(params, EXAMPLES, choice)] == expected


@pytest.mark.stress
def test_samples_are_a_function_of_the_seed_and_differ_between_rows(generator):
    make, params = generator
    same, rows = [EXAMPLES[0]] * 8, make(4)
    one, two = (list(rows.answers(params, same, "sampled")) for _ in range(2))
    assert one == two
    assert len({tuple(a.actions) for a in one}) > 4
    assert one[:4] != one[4:]


@pytest.mark.stress
def test_draws_do_not_depend_on_the_other_ways_to_answer(generator):
    make, params = generator
    other = make(4, names=("sampled", "greedy", "temperature=1"))
    expected = list(make(4).answers(params, EXAMPLES, "sampled"))
    assert list(other.answers(params, EXAMPLES, "sampled")) == expected
    assert list(other.answers(params, EXAMPLES, "temperature=1")) != expected


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
    answers = search.Answers(episode, jnp.zeros(tokens.shape), end - start)
    monkeypatch.setattr(generate.search, "answer", lambda *_, **__: answers)
    # A generator of its own: it is traced with what stands in for the sampler.
    (found,) = make.__wrapped__(1).answers(params, [Example("ab>", "ab")], "greedy")
    taken, edits = len(actions), actions.count("<")
    expected = Example("ab>", "ab"), ids(actions), text, right, finished, taken, edits
    assert found == Answer(*expected)
