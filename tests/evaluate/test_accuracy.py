"""Judging answers: intervals against published ones, edits against a slow oracle and by hand."""

import itertools
import random

import jax.numpy as jnp
import pytest
from flax import nnx

from sequencematch.core import mdp as decisions
from sequencematch.core.types import Episode
from sequencematch.data.task import Example, Task, exact
from sequencematch.data.tokenizer import BKSPC, BOS, EOS, PAD, CharTokenizer
from sequencematch.evaluate import generate
from sequencematch.evaluate.accuracy import accuracy
from sequencematch.evaluate.edits import Edits, count_edits, edit_statistics
from sequencematch.evaluate.generate import (
    CHOICES,
    Answer,
    Generator,
    deletion_flags,
    surviving_text,
)
from sequencematch.evaluate.intervals import wilson
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer

PLAIN = CharTokenizer("abc>")
TOKENIZER = CharTokenizer("abc>", ("<bkspc>", "<bkspc2>", "<reset>"))
POP2, RESET = range(PLAIN.vocab_size, TOKENIZER.vocab_size)
MDP = decisions.make(TOKENIZER.vocab_size, eos=EOS, pad=PAD, never=[BOS], edits=TOKENIZER.pops)
POPS = {BKSPC: 1, POP2: 2, RESET: 99}  # as loops count them
EXAMPLES = [Example("".join(w) + ">", "".join(w)) for w in itertools.product("abc", repeat=2)]
TASK = Task("copy", "abc>", {"test": EXAMPLES}, confusable="abc", check=exact)


def ids(text):
    """Actions from a text: < takes one back, 2 takes two back, R all, $ ends."""
    special = {"<": BKSPC, "2": POP2, "R": RESET, "$": EOS}
    return [special[c] if c in special else TOKENIZER.encode(c)[0] for c in text]


# Newcombe (1998), Statistics in Medicine 17, table I, method 3.
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_as_published(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_intervals_are_intervals_around_the_share():
    for n in (1, 2, 7, 500):
        for right in range(n + 1):
            low, high = wilson(right, n)
            assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1
            assert low < high


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        # nothing wrong
        ("abc$", Edits()),
        ("ab", Edits()),
        ("", Edits()),
        # deleting where nothing stands
        ("<<abc$", Edits()),
        # a wrong token: left, deleted, deleted and mended, at the end of the text
        ("abb$", Edits(errors=1)),
        ("abb<", Edits(deletions=1, deleted_wrong=1, errors=1, errors_deleted=1)),
        ("abb<c$", Edits(1, 1, 1, 1, 1)),
        ("b<abc$", Edits(1, 1, 1, 1, 1)),
        ("abca<$", Edits(1, 1, 1, 1, 1)),
        # deleted, then wrong again; then right
        ("abb<a$", Edits(1, 1, 2, 1, 0)),
        ("abb<a<c$", Edits(2, 2, 2, 2, 1)),
        # only the first of a run of wrong tokens is an error; it is gone when all are
        ("aaa<$", Edits(1, 1, 1, 0, 0)),
        ("aaa<<bc$", Edits(2, 2, 1, 1, 1)),
        ("aaa2bc$", Edits(1, 1, 1, 1, 1)),
        # right tokens after a wrong one are no errors, and deleting them mends nothing
        ("bbc<$", Edits(1, 1, 1, 0, 0)),
        # a right token deleted
        ("ab<bc$", Edits(deletions=1)),
        ("abb<<bc$", Edits(2, 1, 1, 1, 0)),
        # and with it a wrong one: mended when the right one stands in its place
        ("abb2bc$", Edits(1, 1, 1, 1, 1)),
        ("abb2b", Edits(1, 1, 1, 1, 0)),
        ("abb2a$", Edits(1, 1, 2, 1, 0)),
        ("abbRabc$", Edits(1, 1, 1, 1, 1)),
        ("abbRab$", Edits(1, 1, 2, 1, 0)),
        ("abbR", Edits(1, 1, 1, 1, 0)),
        ("abbRRabc$", Edits(1, 1, 1, 1, 1)),
        ("abbRaRabc$", Edits(2, 1, 1, 1, 0)),
        ("abbRcRabc$", Edits(2, 2, 2, 2, 1)),
        ("aRabc$", Edits(deletions=1)),
        # the text ends too early, too late, or with a mistake in it
        ("ab$", Edits(errors=1)),
        ("$", Edits(errors=1)),
        ("abca$", Edits(errors=1)),
        ("ba$", Edits(errors=1)),
    ],
)
def test_edits_by_hand(actions, expected):
    assert count_edits(MDP, ids(actions), ids("abc$")) == expected


def oracle(actions, reference):
    """The same counts from the whole history of texts, found step by step."""
    texts = [[]]
    for action in actions:
        text = list(texts[-1])
        for _ in range(POPS.get(action, 0)):
            if text:
                text.pop()
        texts.append(text if action in POPS else [*text, action])
    right = [text == reference[: len(text)] for text in texts]
    steps = list(zip(actions, texts, texts[1:], right, right[1:], strict=False))
    deleting = [step for step in steps if len(step[2]) < len(step[1])]
    mended, gap = 0, None
    for action, before, after, was, now in steps:
        if len(after) < len(before):
            same = [a == b for a, b in zip(before, reference, strict=False)]
            gap = same.index(False) if now and not was else None
        elif action not in POPS:
            mended += now and gap == len(before)
            gap = None if gap == len(before) or not now else gap
    return Edits(
        deletions=len(deleting),
        deleted_wrong=sum(not was for *_, was, _ in deleting),
        errors=sum(was and not now for *_, was, now in steps),
        errors_deleted=sum(now and not was for *_, was, now in steps),
        errors_mended=mended,
    )


def test_edits_and_replay_are_those_of_a_slow_oracle():
    symbols, found = ids("abcabc<<<2R"), set()
    for seed in range(3000):
        rng = random.Random(seed)
        actions = rng.choices(symbols, k=rng.randrange(12))
        actions += [EOS] * (seed % 2)
        reference = [*rng.choices(ids("abc"), k=rng.randrange(4)), EOS]
        counts = count_edits(MDP, actions, reference)
        assert counts == oracle(actions, reference), (actions, reference)
        found.add(counts)
    assert len(found) > 50


def test_replay_is_a_stack_and_what_is_not_left_was_deleted():
    for seed in range(500):
        rng, stack = random.Random(seed), []
        actions = rng.choices(ids("abcabc<<2R"), k=rng.randrange(15))
        for time, action in enumerate(actions):
            if action in POPS:
                del stack[max(len(stack) - POPS[action], 0) :]
            else:
                stack.append(time)
        assert surviving_text(MDP, actions) == [actions[time] for time in stack]
        gone = {t for t, action in enumerate(actions) if action not in POPS} - set(stack)
        assert [t for t, flag in enumerate(deletion_flags(MDP, actions)) if flag] == sorted(gone)


def answer(completion, actions, right=False):
    text = TOKENIZER.decode(surviving_text(MDP, ids(actions)))
    return Answer(Example("a>", completion), ids(actions), text, right, actions.endswith("$"))


def test_shares_of_several_answers():
    answers = [answer("ab", "ab$", True), answer("ab", "ac<b$", True), answer("ab", "b<c", False)]
    assert edit_statistics(MDP, answers, TOKENIZER.encode) == {
        "answers": 2 / 3,
        "per_action": 2 / 11,
        "deleted_wrong": 1.0,
        "errors": 3,
        "errors_deleted": 2 / 3,
        "errors_mended": 1 / 3,
    }
    found = accuracy(answers)
    assert (found["accuracy"], found["n"], found["right"]) == (2 / 3, 3, 2)
    assert (found["low"], found["high"]) == wilson(2, 3)
    assert (found["finished"], found["length"]) == (2 / 3, 11 / 3)


def test_shares_of_nothing_are_none():
    found = edit_statistics(MDP, [answer("ab", "ab$", True)], TOKENIZER.encode)
    shares = ("deleted_wrong", "errors_deleted", "errors_mended")
    assert [found[share] for share in shares] == [None] * 3
    assert (found["answers"], found["per_action"], found["errors"]) == (0, 0, 0)


# The generator.


@pytest.fixture(scope="module")
def generator():
    """(rows -> a generator of a network that has learnt nothing, its parameters)."""
    edits = decisions.make(PLAIN.vocab_size, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})
    sizes = TransformerConfig(PLAIN.vocab_size, 1, 16, 2, 1, 16)
    graph, params = nnx.split(Transformer(sizes, nnx.Rngs(5)))
    limits = dict(prompt_slots=4, max_actions=6, seed=0)

    def make(rows, **bias):
        return Generator(graph, edits, TASK, PLAIN, rows=rows, **limits, **bias)

    return make, params


@pytest.mark.parametrize("choice", CHOICES)
def test_answers_do_not_depend_on_how_many_are_asked_at_once(generator, choice):
    make, params = generator
    answers = [list(make(rows).answers(params, EXAMPLES, choice)) for rows in (4, 9)]
    assert answers[0] == answers[1]
    assert [a.example for a in answers[0]] == EXAMPLES
    assert len({tuple(a.actions) for a in answers[0]}) > 1
    for a in answers[0]:
        assert a.finished == (a.actions[-1] == EOS) and 1 <= len(a.actions) <= 6
        assert a.text == TOKENIZER.decode(surviving_text(MDP, a.actions))


def test_a_bias_on_edits_is_heard(generator):
    make, params = generator
    for choice, bias in (("greedy", 60.0), ("sampled", -60.0)):
        answers = make(4, edit_bias=bias).answers(params, EXAMPLES[:4], choice)
        assert {a == BKSPC for answer in answers for a in answer.actions} == {bias > 0}


def test_samples_are_a_function_of_the_seed_and_no_two_rows_alike(generator):
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
def test_right_is_the_text_after_deletions_if_it_was_ended(
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
