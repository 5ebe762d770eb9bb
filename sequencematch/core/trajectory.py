"""Builds the trajectory of an episode: what each query may see, and which slot represents each text.

Everything follows from the depths of the text over time, and nothing is computed slot after slot:
each step is one operation on whole arrays, about 3 log2 T of them (docs/mathematics.md, section 5).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Episode, Trajectory


def build_trajectory(mdp: Mdp, episode: Episode) -> Trajectory:
    """Finds the interval mask and the state of each time, in O(T log T).

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
    prompt, made = time <= start, (start < time) & (time <= end)
    # No text is longer than T. Clipped, a RESET has no numbers that overflow when they are added.
    pops = jnp.minimum(jnp.asarray(mdp.pops)[episode.tokens], T)
    pushed = prompt | (made & (pops == 0))
    change = jnp.where(made, jnp.where(pushed, 1, -pops), 0)
    # Depth T, which no text has, stands for the time after the end: nothing is popped there.
    depth = jnp.where(prompt, time, jnp.where(made, depths(change, start), T))
    following, preceding = jax.vmap(next_smaller)(jnp.stack([depth, depth[::-1]]))
    # A push adds one to the depth, so the first slot after a smaller depth was pushed at this one, and
    # it is still there.
    top = T - preceding[::-1]
    return Trajectory(
        tokens=jnp.where(time <= end, episode.tokens, jnp.int32(mdp.pad)),
        positions=jnp.where(pushed, depth, 0),
        # A token is popped when the text first becomes shorter than what it is the last token of.
        visible_until=jnp.where(pushed, following, time + 1),
        state=jnp.where(prompt | made, top, time),
        actions=episode.labels,
        imitate=episode.imitate,
        valid=(start <= time) & (time < end),
        start=start,
        end=end,
        finished=(end > start) & (episode.tokens[end] == mdp.eos),
    )


def depths(change: Int[Array, " T"], floor: Int[Array, ""]) -> Int[Array, " T"]:
    """d_t = max(d_{t-1} + change_t, floor) from d_{-1} = floor: the depth after each action.

    The maps d -> max(d + a, b) are closed under composition, which is associative:
    max(max(d + a, b) + a', b') = max(d + a + a', max(b + a', b')).

    Args:
      change: int32[T], in -T..1.
      floor: int32 >= 0, the depth of the prompt's last token.
    """
    T = change.shape[0]

    def compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        (a, b), (c, d) = first, then
        # Depths are below T, so at a = -T the bound decides already; less might overflow.
        return jnp.maximum(a + c, -T), jnp.maximum(b + c, d)

    a, b = jax.lax.associative_scan(compose, (change, jnp.full_like(change, floor)))
    return jnp.maximum(floor + a, b)


def next_smaller(x: Int[Array, " T"]) -> Int[Array, " T"]:
    """For each i the first k > i with x[k] < x[i]; T if there is none.

    From i + 1 on it leaps over blocks of 2^l numbers in which none is smaller, the largest l first.
    """
    T, levels = x.shape[0], (x.shape[0] - 1).bit_length()
    # Leaps are shorter than 2T in all. Beyond the end nothing is smaller.
    block = jnp.concatenate([x, jnp.full(2 * T, jnp.iinfo(x.dtype).max)])
    minima = []  # minima[l][i] = min(x[i], ..., x[i + 2^l - 1])
    for level in range(levels):
        minima.append(block)
        block = jnp.minimum(block, jnp.roll(block, -(1 << level)))
    k = jnp.arange(T) + 1
    for level in reversed(range(levels)):
        ahead = minima[level].at[k].get(mode="promise_in_bounds")
        k = jnp.where(ahead >= x, k + (1 << level), k)
    return jnp.minimum(k, T)
