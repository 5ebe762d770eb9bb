"""A small decision process with `<bkspc>`, solved exactly: 7 texts of at most 2 letters, and an end.

Everything is enumerated, in float64: occupancies by solving a linear system, J as a sum over all
state-action pairs, its maximum by Newton's method. A point x holds the logits of all legal pairs.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sequencematch.core.divergences import DIVERGENCES, Divergence
from sequencematch.core.types import Trajectory, Values

TEXTS = ["", "a", "b", "aa", "ab", "ba", "bb"]
ACTIONS = ["a", "b", "<bkspc>", "<eos>"]
ABSORBED = len(TEXTS)
STATES, GAMMA = ABSORBED + 1, 0.9


def successor(state: int, action: str) -> int | None:
    """The next state; None if the action is not allowed."""
    if state == ABSORBED or action == "<eos>":
        return ABSORBED if action == "<eos>" else None
    text = TEXTS[state]
    text = text[:-1] if action == "<bkspc>" else text + action
    return TEXTS.index(text) if text in TEXTS else None


TABLE = [[successor(s, a) for a in ACTIONS] for s in range(STATES)]
LEGAL = np.array([[s is not None for s in row] for row in TABLE])
NEXT = np.array([[s or 0 for s in row] for row in TABLE])
FREE = np.flatnonzero(LEGAL)


def expert(seed: int = 0, finishing: float = 0.0) -> np.ndarray:
    """A policy [S, A] with support on all legal actions; `finishing` is added to P(`<eos>`)."""
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(ACTIONS)), STATES) * LEGAL
    pi = weights / weights.sum(axis=1, keepdims=True)
    return (1 - finishing) * pi + finishing * np.eye(len(ACTIONS))[-1]


def logits(x):
    """The free parameters x as logits [S, A], -inf where an action is not allowed."""
    return jnp.full(LEGAL.size, -jnp.inf).at[FREE].set(x).reshape(LEGAL.shape)


def policy(x):
    """softmax l, [S, A]."""
    return jax.nn.softmax(logits(x), axis=-1)


def values(x):
    """V(s) = logsumexp_a l(a|s), [S]."""
    return jax.nn.logsumexp(logits(x), axis=-1)


def rewards(x, gamma=GAMMA):
    """r(s, a) = l(a|s) - gamma V(s'), at the legal pairs in order."""
    return x - gamma * values(x)[NEXT].reshape(-1)[FREE]


def occupancy(pi, gamma=GAMMA):
    """rho(s, a) = (1-gamma) sum_t gamma^t P(s_t = s, a_t = a), at the legal pairs in order."""
    moves = jnp.einsum("sa,sat->st", pi * LEGAL, jax.nn.one_hot(NEXT, STATES, dtype=pi.dtype))
    start = (1 - gamma) * jnp.eye(STATES)[0]
    visits = jnp.linalg.solve(jnp.eye(STATES) - gamma * moves.T, start)
    return (visits[:, None] * pi).reshape(-1)[FREE]


def primal_objective(x, rho_expert, phi, alpha, gamma=GAMMA):
    """J(l) = E_E[phi(alpha r)]/alpha - (1-gamma) V(s_0)."""
    earned = jnp.sum(rho_expert * phi(alpha * rewards(x, gamma))) / alpha
    return earned - (1 - gamma) * values(x)[0]


def sampled_penalty(x, rho, psi, alpha, gamma=GAMMA):
    """E_pi[psi(alpha r)]/alpha, the policy's part of a mixture divergence."""
    return jnp.sum(rho * psi(alpha * rewards(x, gamma))) / alpha


def dual_objective(pi, rho_expert, f, alpha):
    """D_f(rho_pi || rho_E)/alpha - H(rho_pi)."""
    rho, legal = occupancy(pi), pi.reshape(-1)[FREE]
    entropy = -jnp.sum(rho * jnp.log(legal))
    return jnp.sum(rho_expert * f(rho / rho_expert)) / alpha - entropy


def divergence_index(name: str) -> int:
    """The index of a divergence, as `traced_divergence` takes it."""
    return list(DIVERGENCES).index(name)


def traced_divergence(row, t_max):
    """The divergence at a traced index into DIVERGENCES.

    So one compiled program serves them all.
    """

    def switch(functions):
        return lambda x: jax.lax.switch(row, functions, x)

    every = DIVERGENCES.values()
    return Divergence(
        f=switch([d.f for d in every]),
        phi=switch([partial(d.capped_phi, t_max=t_max) for d in every]),
        psi=switch([d.psi or jnp.zeros_like for d in every]),
    )


def with_derivatives(J):
    """A program that returns J(x, *numbers), its gradient and its Hessian."""
    return jax.jit(lambda *at: (J(*at), jax.grad(J)(*at), jax.hessian(J)(*at)))


def maximise(program, *numbers, tolerance=1e-13, steps=1000):
    """The maximum of a concave J by Newton's method from l = 0, with backtracking."""
    x = np.zeros(len(FREE))
    value, slope, curvature = map(np.asarray, program(x, *numbers))
    for _ in range(steps):
        if np.abs(slope).max() < tolerance:
            break
        eigenvalues, axes = np.linalg.eigh(curvature)
        # Newton's step in the eigenbasis; flat directions are bounded, so that the step always ascends.
        step = axes @ (axes.T @ slope / np.maximum(-eigenvalues, 1e-10))
        for size in 0.5 ** np.arange(40):
            ahead = [np.asarray(part) for part in program(x + size * step, *numbers)]
            if ahead[0] >= value + 1e-4 * size * slope @ step - 1e-15 * abs(value):
                break
        x, (value, slope, curvature) = x + size * step, ahead
    return x


class Paths(NamedTuple):
    """All trajectories of a policy up to a cut.

    Attributes:
      trajectories: batch of n; slot t is time t, and the ids of tokens have no meaning.
      states: int[n, T], s_t.
      pairs: int[n, T], index of the legal pair (s_t, a_t).
      probabilities: [n], P(tau).
    """

    trajectories: Trajectory
    states: np.ndarray
    pairs: np.ndarray
    probabilities: np.ndarray

    def read(self, x) -> Values:
        """Q and V along the paths."""
        return Values(q=x[self.pairs], v=values(x)[self.states])


def paths(pi: np.ndarray, cut: int, rows: int | None = None) -> Paths:
    """All trajectories that end within `cut` decisions, and all prefixes of `cut` decisions of others.

    Args:
      pi: [S, A].
      cut: decisions after which a trajectory is cut.
      rows: number to pad to with trajectories of probability 0, so that shapes and programs agree.
    """
    pair_of = np.zeros(LEGAL.size, int)
    pair_of[FREE] = np.arange(len(FREE))
    ended, going = [], [([0], [], 1.0)]
    for _ in range(cut):
        longer = [
            ([*states, TABLE[states[-1]][a]], [*taken, a], p * pi[states[-1], a])
            for states, taken, p in going
            for a in np.flatnonzero(LEGAL[states[-1]])
        ]
        ended += [path for path in longer if path[0][-1] == ABSORBED]
        going = [path for path in longer if path[0][-1] != ABSORBED]
    every = ended + going
    every += [([0], [], 0.0)] * ((rows or len(every)) - len(every))
    states, pairs = np.zeros((2, len(every), 10), int)
    for row, (visited, taken, _) in enumerate(every):
        states[row, : len(visited)] = visited
        pairs[row, : len(taken)] = [
            pair_of[len(ACTIONS) * s + a] for s, a in zip(visited, taken, strict=False)
        ]
    return Paths(_trajectories(every), states, pairs, np.array([p for *_, p in every]))


def _trajectories(every: list) -> Trajectory:
    end = np.array([len(taken) for _, taken, _ in every], np.int32)
    time = np.broadcast_to(np.arange(10, dtype=np.int32), (len(every), 10))
    valid = time < end[:, None]
    finished = np.array([visited[-1] == ABSORBED for visited, *_ in every])
    fields = (time, time, time, time, time, valid, valid, 0 * end, end, finished)
    return jax.tree.map(jnp.asarray, Trajectory(*fields))
