"""Sampling from the policy with a cache that is a stack.

A token's slot in the cache is its depth: a push overwrites the slot above the top, an edit lowers the
top, and attention is causal by depth. So after an edit the next logits come from a hidden state that
is already there. Axes: B rows, P prompt, T = P + max_actions time, S = P + longest slots of the cache,
D model, V vocabulary.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from sequencematch.core.mdp import Mdp
from sequencematch.core.reductions import legal_logits
from sequencematch.core.types import Episode
from sequencematch.models.network import Network
from sequencematch.rollout.contrastive import contrastive_scores
from sequencematch.rollout.decoding import (
    Decoding,
    Memory,
    banned_actions,
    choose,
    draw,
    empty_memory,
    remember,
    standing_tokens,
)
from sequencematch.rollout.noise import RolloutNoise, disturb, went_wrong
from sequencematch.rollout.truncation import penalise


class Sampling(NamedTuple):
    """How texts are sampled.

    Attributes:
      max_actions: largest number of decisions of a row, edits included.
      decoding: how an action is chosen; None draws from the policy itself, as training needs.
      stop_at: number of tokens at which a text ends as well, once so many stand; 0 for none.
      noise: what may take the place of an action, of a begun one, too; None for nothing.
    """

    max_actions: int
    decoding: Decoding | None = None
    stop_at: int = 0
    noise: RolloutNoise | None = None

    @property
    def longest(self) -> int:
        """The most tokens that stand above a prompt, however many decisions are taken."""
        return min(self.max_actions, self.stop_at or self.max_actions)


class Generation(NamedTuple):
    """The state of sampling, one text per row.

    Attributes:
      tokens: int32[B, T], prompt and executed actions by time, as in an `Episode`.
      log_probs: float32[B, T], log pi(a_t|s_t) of the action chosen at time t, under the policy itself
        however it was chosen; 0 elsewhere.
      start: int32[B], slot of the last prompt token.
      time: int32[B], slot of the last action.
      done: bool[B], whether the row has ended.
      depth: int32[B], depth of the top of the stack.
      hidden: [B, S, D], final hidden state of the token at each depth.
      cache: what the network keeps of each depth.
      keys: one random key per row.
      memory: what was removed, stacked to [B, T]; None where it plays no part, as in samples to learn
        from.
      begun: int32[B, K], the first K actions; None where the policy takes all of them.
      chosen: int32[B, T], the action chosen at time t; None where it is always executed.
    """

    tokens: Int[Array, "B T"]
    log_probs: Float[Array, "B T"]
    start: Int[Array, " B"]
    time: Int[Array, " B"]
    done: Bool[Array, " B"]
    depth: Int[Array, " B"]
    hidden: Float[Array, "B S D"]
    cache: Any
    keys: Key[Array, " B"]
    memory: Memory | None = None
    begun: Int[Array, "B K"] | None = None
    chosen: Int[Array, "B T"] | None = None


def begin(
    model: Network,
    prompts: Int[Array, "B P"],
    start: Int[Array, " B"],
    key: PRNGKeyArray,
    how: Sampling,
    *,
    first: int | Int[Array, ""] = 0,
    begun: Int[Array, "B K"] | None = None,
) -> Generation:
    """Reads the prompts in one pass. Call `advance` next, up to `how.max_actions` times.

    Args:
      model, prompts, start, key, how, first, begun: as in `sample`.
    """
    (B, P), max_actions = prompts.shape, how.max_actions
    follows = how.decoding is not None and how.decoding.follows_slots
    memory = jax.vmap(lambda _: empty_memory(P + max_actions))(start) if follows else None
    hidden, cache = model.prefill(prompts, P + how.longest)
    return Generation(
        tokens=jnp.pad(prompts, [(0, 0), (0, max_actions)]),
        log_probs=jnp.zeros((B, P + max_actions), jnp.float32),
        start=start,
        time=start,
        done=jnp.zeros(B, bool),
        depth=start,
        hidden=hidden,
        cache=cache,
        # Keyed by row number, so that a row's sample does not depend on the batch it is in.
        keys=jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(B)),
        memory=memory,
        begun=begun,
        chosen=None if how.noise is None else jnp.zeros((B, P + max_actions), jnp.int32),
    )


def advance(model: Network, mdp: Mdp, generation: Generation, how: Sampling) -> Generation:
    """Takes one decision in every row that is not done.

    Args:
      model, mdp, how: as in `sample`.
      generation: the state so far, begun in the same way.
    """
    # Row by row, or devices that share the rows would send each other what they read and write.
    read = jax.vmap(lambda old, i: old[i])
    write = jax.vmap(lambda old, i, new: old.at[i].set(new, mode="drop"))
    g = generation
    logits = legal_logits(model.logits(read(g.hidden, g.depth)), mdp.legal)
    action = _choose_actions(model, mdp, g, how.decoding, logits).astype(jnp.int32)
    if g.begun is not None:
        taken = jnp.minimum(g.time - g.start, g.begun.shape[1])
        action = read(jnp.append(g.begun, action[:, None], axis=1), taken)
    # Of the policy itself, however the action was chosen.
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], axis=1)[:, 0]
    chosen = action
    if how.noise is not None:
        before = went_wrong(g.chosen, g.tokens, g.start, g.time)
        action = disturb(how.noise, mdp, logits, chosen, before, _keys_of_decision(g))
    pops = jnp.asarray(mdp.pops)[action]
    # Every row goes through the model, also one that pops or is done. What such a row writes lies above
    # its top, where nothing reads it.
    pushed, cache = model.decode(action, g.depth + 1, g.cache)
    # The prompt is never popped.
    depth = jnp.where(pops == 0, g.depth + 1, jnp.maximum(g.depth - pops, g.start))
    ends = (action == mdp.eos) | ((depth - g.start >= how.stop_at) if how.stop_at else False)
    # A row that is done writes to slot T, which is out of bounds and dropped.
    slot = jnp.where(g.done, g.tokens.shape[1], g.time + 1)
    memory = None
    if g.memory is not None:
        note = jax.vmap(partial(remember, how.decoding, mdp))
        memory = note(g.memory, action, g.time + 1, g.depth, depth)
    return Generation(
        tokens=write(g.tokens, slot, action),
        log_probs=write(g.log_probs, slot - 1, jnp.where(g.done, 0.0, log_prob)),
        start=g.start,
        time=jnp.where(g.done, g.time, g.time + 1),
        done=g.done | ends,
        depth=jnp.where(g.done, g.depth, depth),
        hidden=write(g.hidden, g.depth + 1, pushed),
        cache=cache,
        keys=g.keys,
        memory=memory,
        begun=g.begun,
        chosen=None if g.chosen is None else write(g.chosen, slot - 1, chosen),
    )


def _keys_of_decision(generation: Generation) -> Key[Array, " B"]:
    """The key of every row's next decision."""
    return jax.vmap(jax.random.fold_in)(generation.keys, generation.time - generation.start)


def _choose_actions(
    model: Network,
    mdp: Mdp,
    generation: Generation,
    decoding: Decoding | None,
    logits: Float[Array, "B V"],
) -> Int[Array, " B"]:
    """The next action of every row."""
    g, keys = generation, _keys_of_decision(generation)
    if decoding is None:
        return jax.vmap(draw)(keys, logits)
    banned = jnp.zeros(logits.shape, bool)
    if decoding.memory:
        banned = jax.vmap(partial(banned_actions, mdp))(g.memory, g.tokens, g.depth, g.start)
    scores = _score_tokens(model, mdp, g, decoding, logits, banned)
    return jax.vmap(partial(choose, decoding, mdp))(logits, banned, keys, scores)


def _score_tokens(
    model: Network,
    mdp: Mdp,
    generation: Generation,
    decoding: Decoding,
    logits: Float[Array, "B V"],
    banned: Bool[Array, "B V"],
) -> Float[Array, "B V"]:
    """What says which token is written; whether to edit is told by the logits alone."""
    g, scores = generation, logits
    if decoding.repetition != 1:
        stands = jax.vmap(partial(standing_tokens, mdp))(g.memory, g.tokens, g.depth)
        scores = jax.vmap(penalise, (0, 0, None))(scores, stands, decoding.repetition)
    if decoding.contrastive is None:
        return scores
    tokens = jnp.where(banned | (mdp.pops > 0), -jnp.inf, scores)
    candidates, weight = decoding.contrastive
    how = dict(candidates=candidates, weight=weight)
    return contrastive_scores(model, tokens, g.hidden, g.depth, g.cache, **how)


def sample(
    model: Network,
    mdp: Mdp,
    prompts: Int[Array, "B P"],
    start: Int[Array, " B"],
    key: PRNGKeyArray,
    how: Sampling,
    *,
    first: int | Int[Array, ""] = 0,
    begun: Int[Array, "B K"] | None = None,
) -> Generation:
    """Completes right-padded prompts, each up to `<eos>`, `stop_at` tokens or `max_actions` decisions.

    Args:
      model: the policy is the softmax of its legal logits.
      mdp: its decision process.
      prompts: int32[B, P], `<bos>` and the prompt, then padding.
      start: int32[B], slot of the last prompt token.
      key: the only source of randomness; draws depend on (key, number of the row, decision) only.
      how: how actions are chosen, and what ends a text.
      first: number of the first row, for callers that sample a few rows at a time.
      begun: int32[B, K], the first K actions of each row, whatever the policy is; None for none.

    Returns:
      The last state; `episodes` reads the samples from it.
    """

    # The loop stops early when all rows are done: most texts are shorter than the limit.
    def can_continue(loop: tuple[Array, Generation]) -> Array:
        return (loop[0] < how.max_actions) & ~jnp.all(loop[1].done)

    def decide(loop: tuple[Array, Generation]) -> tuple[Array, Generation]:
        return loop[0] + 1, advance(model, mdp, loop[1], how)

    generation = begin(model, prompts, start, key, how, first=first, begun=begun)
    return jax.lax.while_loop(can_continue, decide, (jnp.int32(0), generation))[1]


def episodes(mdp: Mdp, generation: Generation) -> Episode:
    """The samples as episodes: each label is the action that was chosen, and no step is imitated."""
    tokens, start, end = generation.tokens, generation.start, generation.time
    chosen = generation.chosen
    chosen = jnp.roll(tokens, -1, axis=1) if chosen is None else chosen
    slot = jnp.arange(tokens.shape[1])
    taken = (start[:, None] <= slot) & (slot < end[:, None])
    return Episode(
        tokens=jnp.where(slot <= end[:, None], tokens, mdp.pad),
        labels=jnp.where(taken, chosen, mdp.eos),
        imitate=jnp.zeros(tokens.shape, bool),
        start=start,
        end=end,
    )
