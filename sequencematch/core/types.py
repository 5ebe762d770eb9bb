"""Records that all rooms share: `Episode`, what was done, and `Trajectory`, what the loss sees of it.

The fields describe one trajectory of T slots; slot i holds the token fed at time i. Slots 0..start
hold `<bos>` and the prompt. Decisions are taken at times start <= t < end, and the action taken at
time t creates slot t+1.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int
from numpy import ndarray


class Episode(NamedTuple):
    """A prompt, the actions executed after it, and the label of each decision.

    Data and samples share this form; `trajectory.build_trajectory` turns it into a `Trajectory`.

    Attributes:
      tokens: int32[T], the prompt in slots 0..start, then the action executed at t in slot t+1, then
        `<pad>`.
      labels: int32[T], the action to learn at time t: the expert's at a noise step, the sampled one on
        the policy's own steps, any legal id where no decision is taken.
      imitate: bool[T], the expert decisions that count in the expert's sums; false on policy steps.
      start: int32, time of the first decision.
      end: int32, time of the last state; end - start actions were executed.
    """

    tokens: Int[Array | ndarray, "*batch T"]
    labels: Int[Array | ndarray, "*batch T"]
    imitate: Bool[Array | ndarray, "*batch T"]
    start: Int[Array | ndarray, " *batch"]
    end: Int[Array | ndarray, " *batch"]


class Visibility(NamedTuple):
    """What a network is told of a text with edits: where each token stands, and who sees whom.

    The query in slot i sees the key in slot j iff j <= i < visible_until[j]. In a pass over a
    trajectory, queries and keys are its T slots. In decoding the queries are new tokens, the keys are
    the S slots of a cache that is a stack: slot = depth, and visible_until = S.

    Attributes:
      slot: int32[T], slot of each query.
      positions: int32[T], depth of each query's token in its text.
      visible_until: int32[S], of each key; key j is in slot j.
    """

    slot: Int[Array, "*batch T"]
    positions: Int[Array, "*batch T"]
    visible_until: Int[Array, "*batch S"]


class Trajectory(NamedTuple):
    """An episode as the network and the loss see it.

    Attributes:
      tokens: int32[T], token fed at slot i; a slot made by an edit is dead and holds the edit's id.
      positions: int32[T], depth of the slot's token in its text, from 0 (0 on dead and padding slots).
      visible_until: int32[T], query slot i sees key slot j iff j <= i < visible_until[j]. It is T while
        the token survives, t+1 if the action at time t pops it, j+1 for a dead or padding slot.
      state: int32[T], slot on top of the stack at time t for start <= t <= end: its hidden state
        represents s_t. Elsewhere it is the slot itself.
      actions: int32[T], the label at time t.
      imitate: bool[T], the expert decisions that count in the expert's sums.
      valid: bool[T], start <= t < end.
      start, end: int32, times of the first decision and of the last state s_N; N = end - start.
      finished: bool, whether `<eos>` ended the trajectory within its T slots; if not, it was cut.
    """

    tokens: Int[Array, "*batch T"]
    positions: Int[Array, "*batch T"]
    visible_until: Int[Array, "*batch T"]
    state: Int[Array, "*batch T"]
    actions: Int[Array, "*batch T"]
    imitate: Bool[Array, "*batch T"]
    valid: Bool[Array, "*batch T"]
    start: Int[Array, " *batch"]
    end: Int[Array, " *batch"]
    finished: Bool[Array, " *batch"]

    @property
    def visibility(self) -> Visibility:
        """What a network is told of the trajectory beside its tokens."""
        slot = jnp.broadcast_to(jnp.arange(self.tokens.shape[-1]), self.tokens.shape)
        return Visibility(slot, self.positions, self.visible_until)


class Values(NamedTuple):
    """The two numbers per step that the loss reads from the logits, in float32.

    Attributes:
      q: float32[T], Q(s_t, a_t) = l(a_t|s_t), the logit of the label at time t.
      v: float32[T], V(s_t) = logsumexp_a l(a|s_t) over the legal actions.
    """

    q: Array
    v: Array
