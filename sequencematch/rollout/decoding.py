"""How an answer is chosen from the policy: whether to edit, which token, and what is remembered.

For answers only: samples to learn from are drawn from the policy itself (docs/mathematics.md,
section 7). All functions are of one row; axes: V vocabulary, T slots.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sequencematch.core.mdp import EVERYTHING, Mdp
from sequencematch.rollout.truncation import TRUNCATIONS

BLOCK = 512  # most logits that a draw chooses among at once


class Decoding(NamedTuple):
    """A way to choose actions.

    Attributes:
      threshold: *whether to edit*: in (0, 1), edits iff P(edits) is larger, by the likeliest edit. None
        draws whether, with P(edits), and then which edit.
      bias: added to the log-odds of editing, for more edits or fewer; -inf for none.
      temperature: *which token*, `<eos>` included: drawn from softmax(logits / temperature) of the
        actions that are no edits, or at 0 the likeliest.
      memory: whether a token that was removed from a text is never written to it again.
      truncate: of drawn tokens, the rules that say which: (key of `TRUNCATIONS`, its value).
      repetition: the logits of tokens that stand in prompt or text are divided by it where positive,
        multiplied where negative.
      contrastive: (number of candidates, α) of contrastive search; None for none.
      best_of: how many answers are drawn, of which the likeliest is taken.
    """

    threshold: float | None = 0.5
    bias: float = 0.0
    temperature: float = 0.0
    memory: bool = False
    truncate: tuple[tuple[str, float], ...] = ()
    repetition: float = 1.0
    contrastive: tuple[int, float] | None = None
    best_of: int = 1

    @property
    def follows_slots(self) -> bool:
        """Whether it must know which tokens a text is made of, or was."""
        return self.memory or self.repetition != 1


class Memory(NamedTuple):
    """The removed tokens of an answer, each with the text that it was removed from.

    A text is named by the slot of its last token: if it changes and is written again, by another.

    Attributes:
      slots: int32[T], slot of the token at each depth of the current text.
      removed_from: int32[T], at the slot of a removed token the slot of the token below it, else -1.
    """

    slots: Int[Array, " T"]
    removed_from: Int[Array, " T"]


def choose(
    decoding: Decoding,
    mdp: Mdp,
    logits: Float[Array, " V"],
    banned: Bool[Array, " V"],
    key: PRNGKeyArray,
    scores: Float[Array, " V"] | None = None,
) -> Int[Array, ""]:
    """The next action.

    It is an edit by the log-odds of editing, log P(edits) - log(1 - P(edits)) + bias, where P(edits) is
    the sum of pi(a|s) over the edits.

    Args:
      decoding: how it is chosen.
      mdp: says which actions are edits.
      logits: float32[V] of the policy, -inf at ids that are not legal.
      banned: bool[V], actions that are not taken; never `<eos>`.
      key: a random key.
      scores: float32[V] that say which token, where they are not the logits.
    """
    is_edit, (whether, which) = mdp.pops > 0, jax.random.split(key)
    tokens = jnp.where(is_edit, -jnp.inf, logits)
    ways = tokens if scores is None else jnp.where(is_edit, -jnp.inf, scores)
    ways = jnp.where(banned, -jnp.inf, ways)
    token = _pick(ways, decoding.temperature, which, decoding.truncate)
    (ids,) = np.nonzero(is_edit & mdp.legal)
    if not ids.size:
        return token
    edits = jnp.where(banned[ids], -jnp.inf, logits[ids])
    # V(s) cancels. The odds are against all tokens: banning some must not make edits more likely.
    log_odds = jax.nn.logsumexp(edits) - jax.nn.logsumexp(tokens) + decoding.bias
    is_drawn = decoding.threshold is None
    edit = jnp.asarray(ids)[_pick(edits, float(is_drawn), which)]
    if is_drawn:
        edits_now = jax.random.bernoulli(whether, jax.nn.sigmoid(log_odds))
    else:
        edits_now = log_odds > math.log(decoding.threshold) - math.log1p(-decoding.threshold)
    return jnp.where(edits_now, edit, token)


def _pick(
    logits: Float[Array, " V"],
    temperature: float,
    key: PRNGKeyArray,
    truncate: tuple[tuple[str, float], ...] = (),
) -> Int[Array, ""]:
    """A draw from softmax(logits / temperature), truncated; the likeliest at 0."""
    if not temperature:
        return jnp.argmax(logits)
    # From the largest down, so that no temperature overflows; a floor, since all may be -inf.
    largest = jnp.max(logits, initial=jnp.finfo(logits.dtype).min)
    scaled = (logits - largest) / temperature
    for name, value in truncate:
        scaled = jnp.where(TRUNCATIONS[name](scaled, value), scaled, -jnp.inf)
    return draw(key, scaled)


def draw(key: PRNGKeyArray, logits: Float[Array, " V"]) -> Int[Array, ""]:
    """A draw from softmax(logits), of however unlikely an id.

    Of many logits a block of neighbours is drawn first, by its logsumexp, then one of the block. So
    there is noise for V / BLOCK + BLOCK numbers, not for V, and drawing it takes most of the time.
    """
    V = logits.shape[0]
    if V > BLOCK:
        n = -(-V // BLOCK)
        size = -(-V // n)  # as equal as can be, for the least padding
        blocks = jnp.pad(logits, (0, n * size - V), constant_values=-jnp.inf).reshape(n, size)
        which, inside = jax.random.split(key)
        block = draw(which, jax.nn.logsumexp(blocks, axis=1))
        return block * size + draw(inside, blocks[block])
    # "high": by default Gumbel noise ends at 15.9, and what is less likely than 2^-23 is never drawn.
    noisy = logits + jax.random.gumbel(key, logits.shape, logits.dtype, mode="high")
    # XLA for CPUs puts noise that is used once into the argmax, and draws it one number at a time. Used
    # twice, it is stored first, which takes less time.
    return jnp.argmax(noisy == jnp.max(noisy))


def empty_memory(slots: int) -> Memory:
    """Nothing is removed yet, and the prompt's tokens are at their own slots."""
    return Memory(jnp.arange(slots, dtype=jnp.int32), jnp.full(slots, -1, jnp.int32))


def banned_actions(
    mdp: Mdp,
    memory: Memory,
    tokens: Int[Array, " T"],
    depth: Int[Array, ""],
    start: Int[Array, ""],
) -> Bool[Array, " V"]:
    """Tokens that were removed from this very text, and the edits where they would do nothing.

    `<eos>` ends an answer, so it is never removed: something is always left to do. Where `<eos>` is no
    action all tokens may be removed, and then none is banned.

    Args:
      mdp: says which actions are edits.
      memory: what was removed so far.
      tokens: int32[T], prompt and executed actions by slot.
      depth: of the text's last token.
      start: depth of the prompt's last token.
    """
    V = mdp.pops.shape[0]
    is_here = memory.removed_from == memory.slots[depth]
    removed = jnp.zeros(V, bool).at[jnp.where(is_here, tokens, V)].set(True, mode="drop")
    is_left = jnp.any(mdp.legal & (mdp.pops == 0) & ~removed)
    return (removed & is_left) | ((mdp.pops > 0) & (depth == start))


def standing_tokens(
    mdp: Mdp, memory: Memory, tokens: Int[Array, " T"], depth: Int[Array, ""]
) -> Bool[Array, " V"]:
    """Which tokens stand in the prompt or the current text; arguments as of `banned_actions`."""
    slot, V = jnp.arange(tokens.shape[0]), mdp.pops.shape[0]
    ids = jnp.where(slot <= depth, tokens[memory.slots], V)
    return jnp.zeros(V, bool).at[ids].set(True, mode="drop")


def remember(
    decoding: Decoding,
    mdp: Mdp,
    memory: Memory,
    action: Int[Array, ""],
    slot: Int[Array, ""],
    before: Int[Array, ""],
    after: Int[Array, ""],
) -> Memory:
    """The memory after an action.

    A push sets the slot at its depth. An edit removes a token from the text that it leads back to: of
    those that it pops, the first. A RESET before drawn tokens removes none from the prompt: the next
    attempt is another draw in any case.

    Args:
      decoding: says whether tokens are drawn.
      mdp: says what the action pops.
      memory: before the action.
      action: what was done.
      slot: the action's own.
      before, after: depth of the text's last token.
    """
    nowhere = memory.slots.shape[0]  # out of bounds: such a write is dropped
    is_redrawn = (decoding.temperature > 0) & (jnp.asarray(mdp.pops)[action] == EVERYTHING)
    removed = jnp.where((after < before) & ~is_redrawn, memory.slots[after + 1], nowhere)
    pushed = jnp.where(after > before, after, nowhere)
    return Memory(
        slots=memory.slots.at[pushed].set(slot, mode="drop"),
        removed_from=memory.removed_from.at[removed].set(memory.slots[after], mode="drop"),
    )
