"""Whether the rewards that the model implies tell right answers from wrong ones.

Inverse RL recovers a reward from data; arXiv 2409.01369 reports that its returns correlate
with the quality of what is generated. Here: Spearman's correlation of return and correctness.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import numpy as np
from flax import nnx
from scipy import stats

from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import Objective
from sequencematch.core.rewards import recovered_return, set_terminal_value
from sequencematch.core.trajectory import build_trajectory
from sequencematch.core.types import Episode
from sequencematch.data.episodes import lay_out
from sequencematch.data.noise import Decisions
from sequencematch.data.tokenizer import BOS, CharTokenizer
from sequencematch.evaluate.generate import Answer
from sequencematch.models import readout


class Returns:
    """Recovered returns of answers, sum_t gamma^t r_t with what the absorbing state earns.

    Args:
      graph, mdp: the policy.
      tokenizer: of the answers.
      slots: T, room for the longest prompt and answer.
      rows: answers taken through the network at once.
      objective: whose gamma and V(s_N) the return is reckoned with.
    """

    def __init__(
        self,
        graph: nnx.GraphDef,
        mdp: Mdp,
        tokenizer: CharTokenizer,
        *,
        slots: int,
        rows: int,
        objective: Objective,
    ):
        self._tokenizer, self._slots, self._rows = tokenizer, slots, rows

        def returns(params: nnx.State, episodes: Episode) -> jax.Array:
            model = nnx.merge(graph, params)
            trajectories = jax.vmap(partial(build_trajectory, mdp))(episodes)
            hidden = readout.states(model, trajectories)
            values = readout.action_values(model, mdp, hidden, trajectories)
            values = jax.vmap(partial(set_terminal_value, objective.terminal))(values, trajectories)
            gamma = objective.gamma
            return jax.vmap(recovered_return, (0, 0, None))(values, trajectories, gamma)

        self._returns = jax.jit(returns)

    def of(self, params: nnx.State, answers: Sequence[Answer]) -> np.ndarray:
        """float32[len(answers)], in their order."""
        return np.concatenate(list(self._batches(params, answers)))

    def _batches(self, params: nnx.State, answers: Sequence[Answer]) -> Iterator[np.ndarray]:
        for begin in range(0, len(answers), self._rows):
            chunk = answers[begin : begin + self._rows]
            filled = [*chunk, *[chunk[-1]] * (self._rows - len(chunk))]
            episodes = jax.tree.map(lambda *x: np.stack(x), *map(self._episode, filled))
            yield np.asarray(self._returns(params, episodes))[: len(chunk)]

    def _episode(self, answer: Answer) -> Episode:
        prompt = [BOS, *self._tokenizer.encode(answer.example.prompt)]
        sampled = Decisions(answer.actions, answer.actions, [False] * len(answer.actions))
        return lay_out(prompt, sampled, self._slots)


def correlation(returns: np.ndarray, right: Sequence[bool]) -> dict[str, float | None]:
    """Spearman's correlation of return and correctness, and the mean return of either kind.

    None where there is no such thing: all answers right, or all wrong.
    """
    right = np.asarray(right)
    if right.all() or not right.any():
        return {"spearman": None, "p_value": None, "right": None, "wrong": None}
    found = stats.spearmanr(returns, right)
    return {
        "spearman": float(found.statistic),
        "p_value": float(found.pvalue),
        "right": float(returns[right].mean()),
        "wrong": float(returns[~right].mean()),
    }
