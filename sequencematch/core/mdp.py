"""The Markov decision process of text with edit actions (SequenceMatch, arXiv 2306.05426).

A state is a stack of tokens above a fixed prompt. An ordinary token is pushed, `<eos>` leads to an
absorbing state, an edit action pops tokens: `<bkspc>` pops one, RESET all (Zhang et al., arXiv
2409.14586), and nothing when only the prompt is left. Its slot is dead all the same.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from sequencematch.core.types import Episode, Trajectory

# What RESET pops: more than any text holds, so that only the prompt is left.
EVERYTHING = 2**30


class Mdp(NamedTuple):
    """The static facts of the decision process over a vocabulary of V ids.

    Attributes:
      legal: bool[V], the action set; the same mask stands in logsumexp, loss and sampler.
      ordinary: bool[V], the tokens that a text is made of: legal, neither `<eos>` nor an edit.
      pops: int32[V], how many tokens an action removes from the top; 0 pushes itself.
      eos: id of the action that ends the text.
      pad: id that fills unused slots; never an action.
    """

    legal: Bool[np.ndarray, " V"]
    ordinary: Bool[np.ndarray, " V"]
    pops: Int[np.ndarray, " V"]
    eos: int
    pad: int


def make(
    vocab_size: int, *, eos: int, pad: int, never: Iterable[int], edits: Mapping[int, int]
) -> Mdp:
    """Builds the decision process.

    Args:
      vocab_size: V, number of ids.
      eos: id of `<eos>`.
      pad: id of `<pad>`; never an action.
      never: other ids that are no action (`<bos>`, ids that only fill up the vocabulary, and edit
        actions for methods that have none).
      edits: edit action -> number of tokens it pops, `{bkspc: 1}`; empty for methods without.
    """
    legal = np.ones(vocab_size, bool)
    legal[[pad, *never]] = False
    legal[list(edits)] = True
    pops = np.zeros(vocab_size, np.int32)
    pops[list(edits)] = list(edits.values())
    ordinary = legal & (pops == 0) & (np.arange(vocab_size) != eos)
    return Mdp(legal, ordinary, pops, eos, pad)


class _Stack(NamedTuple):
    """The text at one time: `slots[d]` holds the slot of the token at depth d <= depth."""

    depth: Array
    slots: Array
    visible_until: Array


def trajectory(mdp: Mdp, episode: Episode) -> Trajectory:
    """Replays an episode on the stack and says, slot by slot, what each query may see.

    A surviving token's representation never changes, so the state after an edit is an earlier slot:
    logits[state[t]] of one pass under the interval mask equal those of a plain causal pass over s_t.
    """
    episode = jax.tree.map(jnp.asarray, episode)
    T, start, end = episode.tokens.shape[-1], episode.start, episode.end
    time = jnp.arange(T)
    prompt = time <= start
    initial = _Stack(start, time, jnp.where(prompt, T, time + 1))

    def act(stack: _Stack, t: Array) -> tuple[_Stack, tuple[Array, Array]]:
        return jax.tree.map(
            lambda new, old: jnp.where((start <= t) & (t < end), new, old),
            _apply(mdp, stack, episode.tokens[t + 1], t + 1, start),
            (stack, (t + 1, jnp.int32(0))),
        )

    stack, (top, depth) = jax.lax.scan(act, initial, time[:-1])
    pad = jnp.int32(mdp.pad)
    return Trajectory(
        tokens=jnp.where(time <= end, episode.tokens, pad),
        positions=jnp.where(prompt, time, jnp.pad(depth, (1, 0))),
        visible_until=stack.visible_until,
        state=jnp.where(prompt, time, jnp.pad(top, (1, 0))),
        actions=episode.labels,
        imitate=episode.imitate,
        valid=(start <= time) & (time < end),
        start=start,
        end=end,
        finished=(end > start) & (episode.tokens[end] == mdp.eos),
    )


def _apply(
    mdp: Mdp, stack: _Stack, action: Array, slot: Array, floor: Array
) -> tuple[_Stack, tuple[Array, Array]]:
    """Executes one action, which creates `slot`; returns the stack, its top and the slot's depth."""
    T = stack.slots.shape[0]
    pops = jnp.asarray(mdp.pops)[action]
    push = pops == 0
    depth = jnp.where(push, stack.depth + 1, jnp.maximum(stack.depth - pops, floor))
    # Depths above the new top belong to popped tokens: for them this action is the last sight.
    above = jnp.arange(T)
    popped = (above > depth) & (above <= stack.depth)
    lost = jnp.where(popped, stack.slots, T)
    visible_until = stack.visible_until.at[lost].set(slot, mode="drop")
    visible_until = visible_until.at[slot].set(jnp.where(push, T, slot + 1))
    slots = jnp.where(push & (above == depth), slot, stack.slots)
    return _Stack(depth, slots, visible_until), (slots[depth], jnp.where(push, depth, 0))
