"""Head rows of edits that a model has not seen yet: it edits from the first step on, but rarely.

Axes: B batch, T slots, N states, D model.
"""

import math

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Trajectory
from sequencematch.models import readout
from sequencematch.models.network import Network
from sequencematch.storage.processes import fetch

# Of the ridge, against the mean square of what is fitted on. Found on SmolLM2 with 512 states: less
# fits them better and others worse.
RIDGE = 0.01


def first_edit_rows(
    model: Network, mdp: Mdp, trajectories: Trajectory, eta: float
) -> Float32[np.ndarray, "D edits"]:
    """The head rows that edits begin with, for each edit that the decision process has.

    Args:
      model: the network; its logits of edits are not read.
      mdp: says which actions are legal, and which are edits.
      trajectories: rows of a batch, of all processes, whose decisions are fitted on.
      eta: the noise rate, in (0, 1).
    """
    is_edit = mdp.legal & (mdp.pops > 0)
    pushes = mdp._replace(legal=mdp.legal & ~is_edit)

    @nnx.jit
    def read(model: Network, trajectories: Trajectory) -> tuple[Array, Array]:
        hidden = readout.states(model, trajectories)
        return hidden, readout.action_values(model, pushes, hidden, trajectories).v

    hidden, values, t = fetch((*read(model, trajectories), trajectories))
    is_decision = np.arange(hidden.shape[1]) < (t.end - t.start)[:, None]
    return edit_rows(hidden[is_decision], values[t.valid], eta, int(is_edit.sum()))


def edit_rows(
    hidden: Float[Array | np.ndarray, "N D"],
    values: Float[Array | np.ndarray, " N"],
    eta: float,
    edits: int,
    ridge: float = RIDGE,
) -> Float32[np.ndarray, "D edits"]:
    """Head rows with l(edit|s) = V(s) + log(eta / edits), as nearly as a ridge regression has it.

    There P(edits) = eta / (1 + eta). V is the logsumexp over all actions but edits, and grows with the
    size of the vocabulary: edits that began with the mean row would be chosen with e^-19 on SmolLM2.

    Args:
      hidden: [N, D], final hidden states.
      values: [N], V at these states.
      eta: the noise rate, in (0, 1): an expert takes back about as often.
      edits: number of edits, which share it.
      ridge: as in `fit_row`.
    """
    row = fit_row(np.asarray(hidden), np.asarray(values) + math.log(eta / edits), ridge)
    return np.repeat(row[:, None], edits, axis=1).astype(np.float32)


def fit_row(
    hidden: Float[np.ndarray, "N D"], target: Float[np.ndarray, " N"], ridge: float
) -> Float[np.ndarray, " D"]:
    """w = argmin |H w - y|^2 + ridge m |w|^2, m = sum(H^2) / D, in float64.

    Args:
      hidden: H.
      target: y.
      ridge: > 0.
    """
    H, y = hidden.astype(np.float64), target.astype(np.float64)
    N, D = H.shape
    weight = ridge * np.sum(H * H) / D
    # (H'H + m)^-1 H' = H' (HH' + m)^-1: the smaller of the two is solved.
    if N < D:
        return H.T @ np.linalg.solve(H @ H.T + weight * np.eye(N), y)
    return np.linalg.solve(H.T @ H + weight * np.eye(D), H.T @ y)
