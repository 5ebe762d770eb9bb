"""Builds the trajectory of an episode: what each query may see, and which slot represents each text."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Episode, Trajectory


class _Stack(NamedTuple):
    """The text at one time: `slots[d]` is the slot of the token at depth d, for d <= depth."""

    depth: Array
    slots: Array
    visible_until: Array


def build_trajectory(mdp: Mdp, episode: Episode) -> Trajectory:
    """Replays an episode on a stack and records the interval mask and the state of each time.

    `state[t]` is the slot on top of the stack at time t. A surviving token attends only to the text
    below it, so its representation never changes, and the state after an edit is an earlier slot.
    Hence the law: logits[state[t]] of one pass under the interval mask equal those of a plain causal
    pass over s_t (docs/mathematics.md, section 5).

    Args:
      mdp: the decision process.
      episode: what was done, T slots; samples and data alike.
    """
    episode = jax.tree.map(jnp.asarray, episode)
    T, start, end = episode.tokens.shape[-1], episode.start, episode.end
    time = jnp.arange(T)
    prompt = time <= start
    # Slots after the prompt start out as dead: visible to themselves only, until an action fills them.
    initial = _Stack(start, time, jnp.where(prompt, T, time + 1))

    def act(stack: _Stack, t: Array) -> tuple[_Stack, tuple[Array, Array]]:
        # The scan has T-1 steps for every episode; outside start <= t < end it changes nothing.
        return jax.tree.map(
            lambda new, old: jnp.where((start <= t) & (t < end), new, old),
            _execute(mdp, stack, episode.tokens[t + 1], t + 1, start),
            (stack, (t + 1, jnp.int32(0))),
        )

    stack, (top, depth) = jax.lax.scan(act, initial, time[:-1])
    pad = jnp.int32(mdp.pad)
    return Trajectory(
        tokens=jnp.where(time <= end, episode.tokens, pad),
        # The scan returns what holds after each action, one time later: hence the shift by one.
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


def _execute(
    mdp: Mdp, stack: _Stack, action: Array, slot: Array, floor: Array
) -> tuple[_Stack, tuple[Array, Array]]:
    """Executes the action that creates `slot`; returns the stack, its top slot and the slot's depth."""
    T = stack.slots.shape[0]
    pops = jnp.asarray(mdp.pops)[action]
    push = pops == 0
    depth = jnp.where(push, stack.depth + 1, jnp.maximum(stack.depth - pops, floor))
    # Depths between the new top and the old one hold popped tokens. They are hidden from `slot` on.
    above = jnp.arange(T)
    popped = (above > depth) & (above <= stack.depth)
    # Index T is out of bounds and dropped: shapes are static, so "not popped" needs an index too.
    lost = jnp.where(popped, stack.slots, T)
    visible_until = stack.visible_until.at[lost].set(slot, mode="drop")
    visible_until = visible_until.at[slot].set(jnp.where(push, T, slot + 1))
    slots = jnp.where(push & (above == depth), slot, stack.slots)
    return _Stack(depth, slots, visible_until), (slots[depth], jnp.where(push, depth, 0))
