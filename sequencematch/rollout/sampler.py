"""Sampling from the policy with a cache that is a stack.

Slot = depth: a push overwrites the slot above the top, an edit lowers the top, and attention is causal
by depth. So memory follows the text and not the number of actions, and after an edit the next logits
are read from the hidden state that is already there. Axes: B rows, S slots, D model, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sequencematch.core.mdp import Mdp
from sequencematch.core.reductions import legal_logits
from sequencematch.core.types import Episode
from sequencematch.models.transformer import Cache, Transformer
from sequencematch.rollout.decoding import Choice, with_temperature


class Generation(NamedTuple):
    """A batch of texts being written.

    Attributes:
      tokens: int32[B, T], prompt and executed actions, slot by slot as in an `Episode`.
      log_probs: float32[B, T], log pi(a_t|s_t) of the executed action at time t, under the policy
        itself, however the action was chosen; 0 elsewhere.
      start: int32[B], slot of the last prompt token.
      time: int32[B], slot of the last action.
      done: bool[B], whether `<eos>` ended the row.
      depth: int32[B], depth of the stack's top.
      hidden: [B, S, D], final hidden state of the token at each depth.
      cache: keys and values by depth.
      keys: one random key a row.
    """

    tokens: Int[Array, "B T"]
    log_probs: Float[Array, "B T"]
    start: Int[Array, " B"]
    time: Int[Array, " B"]
    done: Bool[Array, " B"]
    depth: Int[Array, " B"]
    hidden: Float[Array, "B S D"]
    cache: Cache
    keys: PRNGKeyArray


def begin(
    model: Transformer,
    prompts: Int[Array, "B P"],
    start: Int[Array, " B"],
    key: PRNGKeyArray,
    max_actions: int,
    first: int | Int[Array, ""] = 0,
) -> Generation:
    """Reads the prompts in one pass; `advance` then takes up to `max_actions` decisions a row."""
    B, P = prompts.shape
    hidden, cache = model.prefill(prompts, P + max_actions)
    return Generation(
        tokens=jnp.pad(prompts, [(0, 0), (0, max_actions)]),
        log_probs=jnp.zeros((B, P + max_actions), jnp.float32),
        start=start,
        time=start,
        done=jnp.zeros(B, bool),
        depth=start,
        hidden=hidden,
        cache=cache,
        keys=jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(B)),
    )


def advance(model: Transformer, mdp: Mdp, generation: Generation, choose: Choice) -> Generation:
    """Takes one decision in every row that is not done."""
    g, row = generation, jnp.arange(generation.time.shape[0])
    logits = legal_logits(model.logits(g.hidden[row, g.depth]), mdp.legal)
    keys = jax.vmap(jax.random.fold_in)(g.keys, g.time - g.start)
    action = jax.vmap(choose)(logits, keys).astype(jnp.int32)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], axis=1)[:, 0]
    pops = jnp.asarray(mdp.pops)[action]
    # A row that pops, or is done, also goes through the model: what it writes lies above its top.
    pushed, cache = model.decode(action, g.depth + 1, g.cache)
    depth = jnp.where(pops == 0, g.depth + 1, jnp.maximum(g.depth - pops, g.start))
    slot = jnp.where(g.done, g.tokens.shape[1], g.time + 1)
    return Generation(
        tokens=g.tokens.at[row, slot].set(action, mode="drop"),
        log_probs=g.log_probs.at[row, slot - 1].set(jnp.where(g.done, 0.0, log_prob)),
        start=g.start,
        time=jnp.where(g.done, g.time, g.time + 1),
        done=g.done | (action == mdp.eos),
        depth=jnp.where(g.done, g.depth, depth),
        hidden=g.hidden.at[row, g.depth + 1].set(pushed, mode="drop"),
        cache=cache,
        keys=g.keys,
    )


def sample(
    model: Transformer,
    mdp: Mdp,
    prompts: Int[Array, "B P"],
    start: Int[Array, " B"],
    key: PRNGKeyArray,
    *,
    max_actions: int,
    first: int | Int[Array, ""] = 0,
    choose: Choice = with_temperature(1.0),
) -> tuple[Episode, Float[Array, "B T"]]:
    """Completes right-padded prompts until `<eos>` or `max_actions` decisions.

    Args:
      model: the policy; softmax of its legal logits.
      mdp: its decision process.
      prompts: int32[B, P], `<bos>` and the prompt, then padding.
      start: int32[B], slot of the last prompt token.
      key: all chance; a row's draws depend on (key, its number, decision) alone.
      max_actions: limit on decisions a row, edits included.
      first: number of the first row, where rows are sampled a few at a time.
      choose: `greedy`, or `tempered(temperature)`; either may be `biased`.

    Returns:
      (episodes of T = P + max_actions slots, log_probs float32[B, T] of the executed actions).
    """

    def unfinished(loop: tuple[Array, Generation]) -> Array:
        return (loop[0] < max_actions) & ~jnp.all(loop[1].done)

    def decide(loop: tuple[Array, Generation]) -> tuple[Array, Generation]:
        return loop[0] + 1, advance(model, mdp, loop[1], choose)

    initial = begin(model, prompts, start, key, max_actions, first)
    _, final = jax.lax.while_loop(unfinished, decide, (jnp.int32(0), initial))
    return _episodes(mdp, final), final.log_probs


def _episodes(mdp: Mdp, generation: Generation) -> Episode:
    """What was sampled, as episodes: the label at each step is the sampled action."""
    tokens, start, end = generation.tokens, generation.start, generation.time
    slot = jnp.arange(tokens.shape[1])
    taken = (start[:, None] <= slot) & (slot < end[:, None])
    return Episode(
        tokens=jnp.where(slot <= end[:, None], tokens, mdp.pad),
        labels=jnp.where(taken, jnp.roll(tokens, -1, axis=1), mdp.eos),
        imitate=jnp.zeros(tokens.shape, bool),
        start=start,
        end=end,
    )
