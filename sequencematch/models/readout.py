"""From a network and trajectories to what the losses need: a few numbers per step.

Axes: B batch, T slots, S states from `start` on, D model, V vocabulary. No array over the vocabulary is
larger than 64 MiB, forward or backward, but the head itself: states are read in chunks. On accelerators
it is 512 MiB: a chunk there costs as much as reading and adding up the head's gradient does.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sequencematch.core import likelihood, reductions
from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Trajectory, Values
from sequencematch.models.network import Network

LOGIT_BYTES = 64 * 2**20  # of one array of logits on a CPU, which are float32
ON_ACCELERATORS = 8  # times as many


def chunk_size(vocab_size: int, devices: int = 1) -> int:
    """The number of states whose logits exist at the same time, on all devices that share them."""
    size = LOGIT_BYTES * (1 if jax.default_backend() == "cpu" else ON_ACCELERATORS)
    return max(1, size * devices // (4 * vocab_size))


def states(
    model: Network, trajectories: Trajectory, max_actions: int | None = None
) -> Float[Array, "B S D"]:
    """Hidden states that represent s_t at the times t = start + i: hidden[state[t]] of one pass.

    Their place is the number i of a decision; `map_states` reads them into places t, as of all else.

    After an edit the text is one that was there before, and so is its representation: it is looked up,
    not computed again (docs/mathematics.md, section 5).

    Args:
      model: the network.
      trajectories: a batch of T slots.
      max_actions: no row takes more decisions; S = max_actions + 1, since s_N has a value, too. By
        default S = T. States behind `end` represent nothing.
    """
    T = trajectories.tokens.shape[1]
    S = T if max_actions is None else min(T, max_actions + 1)
    hidden = model.hidden(trajectories.tokens, trajectories.visibility)
    slots = jnp.take_along_axis(trajectories.state, _times(trajectories, S), axis=1)
    return jnp.take_along_axis(hidden, slots[..., None], axis=1)


def _times(trajectories: Trajectory, states: int) -> Int[Array, "B S"]:
    """start + i; the last slot's where there is no such time."""
    time = trajectories.start[:, None] + jnp.arange(states)
    return jnp.minimum(time, trajectories.tokens.shape[1] - 1)


def action_values(
    model: Network, mdp: Mdp, hidden: Float[Array, "B S D"], trajectories: Trajectory
) -> Values:
    """Q(s_t, a_t) = l(a_t|s_t) and V(s_t) = logsumexp_a l(a|s_t), [B, T], from `start` to `end`.

    Args:
      model: the network; its head is applied here.
      mdp: gives the legal actions.
      hidden: [B, S, D], from `states`.
      trajectories: give the labels a_t.
    """

    return values_among([mdp.legal], model, mdp, hidden, trajectories)[0]


def values_among(
    sets: Sequence[Bool[np.ndarray, " V"]],
    model: Network,
    mdp: Mdp,
    hidden: Float[Array, "B S D"],
    trajectories: Trajectory,
) -> list[Values]:
    """`action_values`, for each of several sets of legal actions: one pass of the head for all.

    Q of a label that is not in a set is -inf there.
    """

    def read(hidden: Array, _, actions: Array) -> list[Values]:
        logits = model.logits(hidden)
        read_rows = jax.vmap(reductions.action_values, (0, 0, None))
        return [read_rows(logits, actions, legal) for legal in sets]

    return map_states(read, model, mdp, hidden, trajectories, trajectories.actions)


def log_unlikelihood(
    model: Network, mdp: Mdp, hidden: Float[Array, "B S D"], trajectories: Trajectory
) -> Float[Array, "B T"]:
    """sum_c log(1 - pi(c|s_t)) over the distinct legal tokens c of the text s_t but the label, [B, T].

    Args:
      model: the network; its head is applied here.
      mdp: gives the legal actions.
      hidden: [B, S, D], from `states`.
      trajectories: give texts and labels.
    """

    def read(hidden: Array, time: Array, actions: Array, rows: tuple) -> Array:
        def penalty(
            logits: Array, time: Array, actions: Array, t: Trajectory, first: Array
        ) -> Array:
            now, slot = time[:, None], jnp.arange(first.shape[0])
            text = (slot <= now) & (now < t.visible_until) & first
            return likelihood.log_unlikelihood(logits, actions, text, t.tokens, mdp.legal)

        # checkpoint: arrays over the text's slots are cheaper to compute again than to store.
        return jax.vmap(jax.checkpoint(penalty))(model.logits(hidden), time, actions, *rows)

    first = jax.vmap(lambda t: likelihood.first_occurrences(mdp, t))(trajectories)
    rows = (trajectories, first)
    return map_states(read, model, mdp, hidden, trajectories, trajectories.actions, rows=rows)


def map_states(
    read: Callable,
    model: Network,
    mdp: Mdp,
    hidden: Float[Array, "B S D"],
    trajectories: Trajectory,
    *steps: Int[Array | np.ndarray, "B T"],
    rows: object = None,
):
    """Reads all states, in chunks of times and, if the batch is larger than a chunk, of rows.

    Rows take fewer decisions than there is room for. In a chunk of states that no row of the batch has,
    nothing is computed when the program runs.

    Args:
      read: (hidden [b, c, D], time [b, c], *steps [b, c], rows) -> arrays [b, c, ...], which must not
        mix states; `rows` is left out if it is None.
      model: the network that is read. One whose rows several devices share says so by its `devices`.
      mdp: gives V.
      hidden: [B, S, D], from `states`.
      trajectories: say which states there are.
      *steps: what `read` is told of each time.
      rows: arrays [B, ...], for all states of a row.

    Returns:
      Arrays [B, T, ...], 0 at times that have no state in `hidden` and in chunks that have none.
    """
    T, S, devices = trajectories.tokens.shape[1], hidden.shape[1], getattr(model, "devices", 1)
    size = chunk_size(mdp.legal.shape[0], devices)
    is_state = jnp.arange(S) <= jnp.max(trajectories.end - trajectories.start)
    time = _times(trajectories, S)
    steps = [jnp.take_along_axis(jnp.asarray(x), time, axis=1) for x in steps]

    def read_rows(steps: tuple, rows: object):
        def read_times(*steps: Array):
            steps = (x.swapaxes(0, 1) for x in steps)
            out = read(*steps, *(() if rows is None else (rows,)))
            return jax.tree.map(lambda y: y.swapaxes(0, 1), out)

        by_time = [x.swapaxes(0, 1) for x in steps]
        at_once = max(1, size // steps[0].shape[0])
        out = map_in_chunks(read_times, *by_time, size=at_once, used=is_state)
        return jax.tree.map(lambda y: y.swapaxes(0, 1), out)

    found = map_in_chunks(read_rows, (hidden, time, *steps), rows, size=size, spread=devices)
    number = jnp.arange(T) - trajectories.start[:, None]  # of the state at each time
    there = (number >= 0) & (number < S)

    def put_at_times(y: Array) -> Array:
        axes = (..., *[None] * (y.ndim - 2))
        at = jnp.clip(number, 0, S - 1)[axes]
        return jnp.where(there[axes], jnp.take_along_axis(y, at, axis=1), 0)

    return jax.tree.map(put_at_times, found)


def map_in_chunks(
    f: Callable, *trees, size: int, used: Bool[Array, " n"] | None = None, spread: int = 1
):
    """f(*trees), computed on slices of the leading axis to bound the memory of its intermediates.

    With f = head and reduction, not all logits exist at once, neither forward nor backward.

    Args:
      f: a function of arrays [m, ...] that treats each index on its own.
      *trees: arrays [n, ...], or trees of them.
      size: most indices in a slice; it need not divide n.
      used: slices of which no index is used are not computed but 0; all are used by default.
      spread: number of devices that share the indices. With several, slice i has the indices i,
        i + chunks, ... instead of neighbours: the devices then share those of each slice, too.
    """
    n = jax.tree.leaves(trees)[0].shape[0]
    if size >= n:
        return f(*trees)
    chunks = -(-n // size)
    size = -(-n // (chunks * spread)) * spread  # as equal as can be, for the least padding

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, chunks * size - n)] + [(0, 0)] * (x.ndim - 1))
        if spread > 1:
            return padded.reshape(size, chunks, *x.shape[1:]).swapaxes(0, 1)
        return padded.reshape(chunks, size, *x.shape[1:])

    def join(y: Array) -> Array:
        y = y.swapaxes(0, 1) if spread > 1 else y
        return y.reshape(chunks * size, *y.shape[2:])[:n]

    def compute(xs):
        return jax.checkpoint(f)(*xs)

    def compute_if_used(chunk):
        xs, used = chunk
        zeros = jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), jax.eval_shape(compute, xs))
        return jax.lax.cond(jnp.any(used), compute, lambda xs: zeros, xs)

    # checkpoint: the backward pass recomputes each chunk instead of storing its logits.
    used = jnp.ones(n, bool) if used is None else used
    out = jax.lax.map(compute_if_used, jax.tree.map(split, (trees, used)))
    return jax.tree.map(join, out)
