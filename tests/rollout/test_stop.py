"""Answers that stop at a length: so many tokens survive, whatever was deleted on the way."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.rollout import search
from sequencematch.rollout.decoding import Decoding, Memory, banned_actions
from sequencematch.rollout.sampler import Sampling, begin
from tests import oracles
from tests.marks import stress
from tests.rollout.samples import EDITS, EOS, LETTERS, MDP, rows, to_numpy

LIMIT, LENGTH = 24, 4
# As in texts that are windows: no action ends them.
ENDLESS = MDP._replace(legal=MDP.legal & (np.arange(len(MDP.legal)) != EOS))
WAYS = {
    "policy": None,
    "greedy": Decoding(0.6),
    "remembering": Decoding(None, bias=1.0, temperature=1.0, memory=True),
    "contrastive": Decoding(0.6, memory=True, contrastive=(3, 0.6)),
    "best": Decoding(None, temperature=1.0, best_of=3),
}


@partial(nnx.jit, static_argnames=("decoding", "stop_at", "endless"))
def answer(model, prompts, decoding, stop_at, endless=True):
    decisions, how = ENDLESS if endless else MDP, Sampling(LIMIT, decoding, stop_at)
    return search.answer(model, decisions, *prompts, jax.random.key(5), how).episodes


def lengths(prompt, actions):
    """How many tokens stand after each action."""
    return [len(text) - len(prompt) for text in oracles.texts(prompt, actions, EDITS)[1:]]


@pytest.mark.parametrize("way", [way if way == "remembering" else stress(way) for way in WAYS])
def test_exactly_so_many_tokens_survive_unless_the_limit_comes_first(model, prompts, way):
    found = [*rows(to_numpy(answer(model, prompts, WAYS[way], LENGTH)))]
    for prompt, actions in found:
        standing = lengths(prompt, actions)
        assert max(standing[:-1], default=0) < LENGTH and EOS not in actions
        assert standing[-1] == LENGTH or len(actions) == LIMIT
    edited = [actions for _, actions in found if {*actions} & {*EDITS}]
    assert edited, "else the law says nothing of deletions"


def test_a_cache_has_room_for_what_survives_and_not_for_what_is_deleted(model, prompts):
    how = Sampling(LIMIT, WAYS["remembering"], LENGTH)
    tokens, start = map(jnp.asarray, prompts)
    found = nnx.eval_shape(lambda model: begin(model, tokens, start, jax.random.key(5), how), model)
    prompt = tokens.shape[1]
    assert found.tokens.shape[1] == prompt + LIMIT
    assert {found.hidden.shape[1], found.cache[0].slots} == {prompt + LENGTH}


@pytest.mark.stress
def test_an_answer_that_stops_is_the_beginning_of_one_that_goes_on(model, prompts):
    decoding = WAYS["remembering"]
    stopped, whole = (
        [*rows(to_numpy(answer(model, prompts, decoding, at, endless=False)))] for at in (LENGTH, 0)
    )
    for (prompt, actions), (_, longer) in zip(stopped, whole, strict=True):
        standing = [*lengths(prompt, longer), LENGTH]
        assert actions == longer[: standing.index(LENGTH) + 1]
    ends = [actions[-1] == EOS for _, actions in stopped]
    assert any(ends) and not all(ends)


def test_where_all_tokens_were_removed_none_is_banned():
    """A text without an end always goes on."""
    start, count = 2, len(LETTERS)
    tokens = jnp.array([1, 7, 8, *LETTERS], jnp.int32)  # a prompt, then each letter
    slots = np.arange(len(tokens), dtype=np.int32)
    for number, banned in ((count, 0), (count - 1, count - 1)):
        removed_from = np.where((slots > start) & (slots <= start + number), start, -1)
        memory = Memory(jnp.asarray(slots), jnp.asarray(removed_from, jnp.int32))
        for depth in (start, start + 1):
            found = banned_actions(ENDLESS, memory, tokens, *map(jnp.int32, (depth, start)))
            here = banned if depth == start else 0  # nothing was removed from the other text
            assert found[np.array(LETTERS)].sum() == here
            assert found[np.array([*EDITS][:3])].all() == (depth == start)
