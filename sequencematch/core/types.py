"""The records that cross every room: what was done (`Episode`), and what it means (`Trajectory`).

Everything is for one trajectory of T slots; slot i holds the token fed at time i. Slots 0..start
hold `<bos>` and the prompt, decisions are taken at times start <= t < end, and the action taken at
t creates slot t+1.
"""

from typing import NamedTuple

from jaxtyping import Array, Bool, Int
from numpy import ndarray


class Episode(NamedTuple):
    """What was done: a prompt, the executed actions, and what the expert would have done.

    Data and samples have this one form; `mdp.trajectory` gives it meaning.

    Attributes:
      tokens: int32[T], the prompt in slots 0..start, then the action executed at t in slot t+1, then
        `<pad>`.
      labels: int32[T], the action to be learnt at time t: at a noise step what the expert would have
        done, on the policy's own steps what it sampled; any legal id where no decision is taken.
      imitate: bool[T], expert decisions that count in the expert's sums; false on policy steps.
      start: int32, time of the first decision.
      end: int32, time of the last state; end - start actions were executed.
    """

    tokens: Int[Array | ndarray, "*batch T"]
    labels: Int[Array | ndarray, "*batch T"]
    imitate: Bool[Array | ndarray, "*batch T"]
    start: Int[Array | ndarray, " *batch"]
    end: Int[Array | ndarray, " *batch"]


class Trajectory(NamedTuple):
    """An episode as the Markov decision process sees it.

    Attributes:
      tokens: int32[T], token fed at slot i; a slot made by an edit action is dead and holds that
        action's id.
      positions: int32[T], depth of the slot's token in its text, from 0 (0 on dead and padding slots).
      visible_until: int32[T], query slot i sees key slot j iff j <= i < visible_until[j]: T while
        alive, t+1 when the action at t pops it, j+1 for a dead or padding slot.
      state: int32[T], slot on top of the stack at time t for start <= t <= end: its hidden state
        represents s_t; elsewhere the slot itself.
      actions: int32[T], the label at t.
      imitate: bool[T], expert decisions that count in the expert's sums.
      valid: bool[T], start <= t < end.
      start, end: int32, times of the first decision and of the last state s_N; N = end - start.
      finished: bool, whether the `<eos>` slot is among the T slots (else the trajectory was cut).
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


class Values(NamedTuple):
    """What the loss reads from the logits, two numbers a step, as float32.

    Attributes:
      q: float32[T], Q(s_t, a_t) = l(a_t|s_t), the logit of the label at time t.
      v: float32[T], V(s_t) = logsumexp_a l(a|s_t) over the legal actions.
    """

    q: Array
    v: Array
