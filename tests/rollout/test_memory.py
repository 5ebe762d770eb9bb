"""Whole answers, with memory and without: a slow decoder in plain Python; no text is repeated."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.types import Visibility
from sequencematch.rollout import sampler
from sequencematch.rollout.decoding import Decoding
from tests.marks import stress
from tests.rollout.samples import BOS, EOS, LETTERS, PAD, ROWS, WIDTH, rows, to_numpy

V, ACTIONS, KEY = 12, 30, 11
SLOW_ROWS = 15  # rows that are also decoded slowly: all lengths of prompts, three times
# ids 3 to 5 are edits in every network here; the sets are those that a configuration allows, and one
# with both kinds.
EDITS = {
    "bkspc": {3: 1},
    "bkspc2 and bkspc4": {3: 1, 4: 2, 5: 4},
    "reset": {5: mdp.EVERYTHING},
    "all kinds": {3: 1, 4: 2, 5: mdp.EVERYTHING},
}
all_kinds = pytest.mark.parametrize(
    "edits", [x if name == "all kinds" else stress(x) for name, x in EDITS.items()], ids=EDITS
)
MDPS = {
    tuple(edits.items()): mdp.make(
        V, eos=EOS, pad=PAD, never=[BOS, *{3, 4, 5} - {*edits}], edits=edits
    )
    for edits in EDITS.values()
}
# With such biases about every third action is an edit.
GREEDY = Decoding(threshold=0.4, bias=1.7, memory=True)
DRAWN = Decoding(None, bias=1.0, temperature=0.7, memory=True)


@partial(nnx.jit, static_argnames=("edits", "decoding"))
def answer(model, prompts, edits, decoding):
    decisions, key = MDPS[edits], jax.random.key(KEY)
    final = sampler.sample(model, decisions, *prompts, key, sampler.Sampling(ACTIONS, decoding))
    return sampler.episodes(decisions, final)


def answers(model, prompts, edits, decoding):
    """[(prompt, actions)] of every row."""
    return list(rows(to_numpy(answer(model, prompts, tuple(edits.items()), decoding))))


def replay(actions, edits):
    """Yields (text before, action, text after), the texts without the prompt."""
    text = []
    for action in actions:
        after = text[: max(len(text) - edits[action], 0)] if action in edits else [*text, action]
        yield text, action, after
        text = after


def written_texts(actions, edits):
    """The texts that a push led to, in order."""
    return [tuple(after) for _, action, after in replay(actions, edits) if action not in edits]


# The slow decoder.


@pytest.fixture(scope="module")
def read(model):
    """text -> its logits, from a plain causal pass without cache or edits."""
    length, known = WIDTH + ACTIONS, {}

    @nnx.jit
    def run(model, tokens):
        slots = jnp.arange(length)[None]
        everything = Visibility(slots, slots, jnp.full((1, length), length))
        return model.logits(model.hidden(tokens, everything))[0]

    def logits(text):
        if tuple(text) not in known:
            padded = np.array([[*text, *[PAD] * (length - len(text))]], np.int32)
            known[tuple(text)] = np.asarray(run(model, padded))[len(text) - 1].tolist()
        return known[tuple(text)]

    return logits


@pytest.fixture(scope="module")
def draws():
    """[row][decision] -> the uniform number of a decision, and Gumbel numbers of tokens and edits.

    Those of edits are by how many edits there are.
    """

    def draw(row, decision):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(KEY), row), decision)
        whether, which = jax.random.split(key)
        noise = partial(jax.random.gumbel, which, mode="high")
        of_edits = jnp.stack([jnp.pad(noise(n), (0, 4 - n)) for n in range(1, 5)])
        return jax.random.uniform(whether), noise(V), of_edits

    every = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(jnp.arange(ROWS), jnp.arange(ACTIONS))
    return [list(zip(*row, strict=True)) for row in zip(*(x.tolist() for x in every), strict=True)]


def decode_slowly(read, draws, prompt, edits, decoding):
    """The actions of an answer: a stack, one set of removed tokens per depth, and log-odds."""
    text, removed, actions = [], [set()], []  # removed[d]: from the text of d tokens
    while len(actions) < ACTIONS and EOS not in actions:
        uniform, gumbel, of_edits = draws[len(actions)]
        logits = read([*prompt, *text])
        weights = {a: math.exp(logits[a]) for a in (*edits, EOS, *LETTERS)}
        p = sum(weights[a] for a in edits) / sum(weights.values())
        odds = math.log(p) - math.log(1 - p) + decoding.bias
        limit = uniform if decoding.threshold is None else decoding.threshold
        if odds > math.log(limit / (1 - limit)) and (text or not decoding.memory):
            noise = of_edits[len(edits) - 1] if decoding.threshold is None else [0] * 4
            action = max(sorted(edits), key=lambda a: logits[a] + noise[sorted(edits).index(a)])
            left = max(len(text) - edits[action], 0)
            is_redrawn = edits[action] == mdp.EVERYTHING and decoding.temperature > 0
            if left < len(text) and not is_redrawn:
                removed[left].add(text[left])
            text, removed = text[:left], removed[: left + 1]
        else:
            banned = removed[-1] if decoding.memory else set()
            noise = gumbel if decoding.temperature else [0] * V
            allowed = [a for a in (EOS, *LETTERS) if a not in banned]
            action = max(allowed, key=lambda a: logits[a] / (decoding.temperature or 1) + noise[a])
            text, removed = [*text, action], [*removed, set()]
        actions.append(action)
    return actions


def assert_decoded(model, prompts, read, draws, edits, decoding):
    """Asserts that the sampler's answers are the slow decoder's; returns how many memory changes."""
    changes = 0
    for row, (prompt, actions) in enumerate(answers(model, prompts, edits, decoding)[:SLOW_ROWS]):
        assert actions == decode_slowly(read, draws[row], prompt, edits, decoding)
        other = decoding._replace(memory=not decoding.memory)
        changes += actions != decode_slowly(read, draws[row], prompt, edits, other)
    return changes


@all_kinds
@pytest.mark.parametrize("decoding", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_answers_are_those_of_a_slow_decoder(model, prompts, read, draws, edits, decoding):
    assert assert_decoded(model, prompts, read, draws, edits, decoding) > SLOW_ROWS // 5
    found = answers(model, prompts, edits, decoding)
    assert {*edits, EOS} <= {action for _, actions in found for action in actions}


@pytest.mark.stress
@pytest.mark.parametrize("decoding", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_answers_without_memory_are_those_of_a_slow_decoder(model, prompts, read, draws, decoding):
    decoding = decoding._replace(memory=False)
    assert_decoded(model, prompts, read, draws, EDITS["all kinds"], decoding)


# The law.


@all_kinds
def test_no_greedy_answer_writes_a_text_twice(model, prompts, edits):
    """With memory. Without it, every answer that writes after an edit does."""
    edited = 0
    for _, actions in answers(model, prompts, edits, GREEDY):
        texts = written_texts(actions, edits)
        assert len(texts) == len(set(texts))
        edited += not edits.keys().isdisjoint(actions)
    assert edited > ROWS // 4
    for _, actions in answers(model, prompts, edits, GREEDY._replace(memory=False)):
        texts = written_texts(actions, edits)
        is_edit = [action in edits for action in actions]
        goes_on = True in is_edit and False in is_edit[is_edit.index(True) :]
        assert (len(texts) > len(set(texts))) == goes_on


@pytest.mark.parametrize("kind", ["bkspc", stress("reset")])
def test_an_answer_that_deletes_all_it_writes_tries_every_token_once_and_ends(
    model, prompts, read, kind
):
    """Edits are masked where there is nothing to delete, and `<eos>` is always left."""
    (edit,) = EDITS[kind]
    for prompt, actions in answers(model, prompts, EDITS[kind], Decoding(bias=50.0, memory=True)):
        logits = read(prompt)
        tries = sorted((EOS, *LETTERS), key=lambda a: -logits[a])
        tries = tries[: tries.index(EOS)]
        assert actions == [action for token in tries for action in (token, edit)] + [EOS]
