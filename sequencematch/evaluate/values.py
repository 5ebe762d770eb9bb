"""Whether the rewards that the model implies tell right answers from wrong ones.

Inverse RL recovers a reward from data. Wulfmeier et al. (arXiv 2409.01369) report that its returns
correlate with the quality of generated text. Here: Spearman's correlation of return and correctness,
and how well several scores made of Q and V tell right from wrong, against the likelihood.
"""

from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import Objective, read_values
from sequencematch.core.rewards import recovered_return
from sequencematch.core.trajectory import build_trajectory
from sequencematch.core.types import Episode
from sequencematch.data.episodes import lay_out, prompt_ids, round_slots
from sequencematch.data.noise import Decisions
from sequencematch.data.tokenizer import Tokenizer
from sequencematch.evaluate.auc import auc, auc_within
from sequencematch.evaluate.generate import Answer
from sequencematch.models import readout
from sequencematch.models.transformer import with_whole_ends
from sequencematch.storage.processes import fetch


class Scores(NamedTuple):
    """What the model says of the N actions of one answer.

    Attributes:
      v: float32[N+1], V(s_t) before each action, and V(s_N).
      q: float32[N], Q(s_t, a_t).
      rewards: float32[N], the implied rewards r_t = Q(s_t, a_t) - γ V(s_{t+1}), as J reads them.
      log_probs: float32[N], log π(a_t|s_t).
      text_log_probs: float32[N], the same with edits masked and the rest renormalised: that of a model
        which never edits. Of an edit it is -inf.
      recovered_return: float32, Σₜ γᵗ rₜ, including what the absorbing state earns.
    """

    v: np.ndarray
    q: np.ndarray
    rewards: np.ndarray
    log_probs: np.ndarray
    text_log_probs: np.ndarray
    recovered_return: np.ndarray


class Scorer:
    """Values and rewards of given answers, in batches of one shape.

    Args:
      graph, mdp: the policy; its parameters are given with each call.
      tokenizer: of the prompts.
      slots: T at most, room for the longest prompt and answer.
      rows: answers that go through the network at once.
      objective: J, by which values and rewards are read.
      sharding: how rows are divided among devices; None for one device.
    """

    def __init__(
        self,
        graph: nnx.GraphDef,
        mdp: Mdp,
        tokenizer: Tokenizer,
        *,
        slots: int,
        rows: int,
        objective: Objective,
        sharding: NamedSharding | None = None,
    ):
        self.mdp = mdp
        self._tokenizer, self._slots, self._rows = tokenizer, slots, rows
        self._sharding = sharding

        def score(params: nnx.State, episodes: Episode) -> Scores:
            model = with_whole_ends(nnx.merge(graph, params))
            trajectories = jax.vmap(partial(build_trajectory, mdp))(episodes)
            hidden = readout.states(model, trajectories)
            sets = mdp.legal, mdp.legal & (mdp.pops == 0)
            each = readout.values_among(sets, model, mdp, hidden, trajectories)
            values, log_probs = each[0], [x.q - x.v for x in each]
            # V(s_N) and rewards are those of J. A return has no bound on V, or it would not telescope.
            values, rewards = jax.vmap(partial(read_values, objective))(values, trajectories)
            earn = jax.vmap(recovered_return, (0, 0, None))
            returns = earn(values, trajectories, objective.gamma)
            return Scores(values.v, values.q, rewards, *log_probs, returns)

        self._score = jax.jit(score)

    def score(
        self, params: nnx.State, prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> Iterator[Scores]:
        """Yields the scores of answers, given as the ids of their actions, in order."""
        pairs = [
            (prompt_ids(self._tokenizer, prompt), actions)
            for prompt, actions in zip(prompts, answers, strict=True)
        ]
        # Answers are mostly shorter than they may be: no more room than the longest takes.
        longest = max((len(prompt) + len(actions) for prompt, actions in pairs), default=0)
        slots = min(self._slots, round_slots(longest))
        for begin in range(0, len(pairs), self._rows):
            chunk = pairs[begin : begin + self._rows]
            # One shape for all chunks: the last one is filled up with copies, dropped below.
            filled = [*chunk, *[chunk[-1]] * (self._rows - len(chunk))]
            episodes = [self._episode(*pair, slots) for pair in filled]
            stacked = jax.device_put(
                jax.tree.map(lambda *x: np.stack(x), *episodes), self._sharding
            )
            scores = fetch(self._score(params, stacked))
            for row, episode in enumerate(episodes[: len(chunk)]):
                yield _cut(scores, row, episode.start, episode.end)

    def score_answers(self, params: nnx.State, answers: Sequence[Answer]) -> Iterator[Scores]:
        """Yields the scores of the model's own answers, in order."""
        prompts = [answer.example.prompt for answer in answers]
        return self.score(params, prompts, [answer.actions for answer in answers])

    def _episode(self, prompt: Sequence[int], actions: Sequence[int], slots: int) -> Episode:
        # Q is read at the label, so each executed action is its own label.
        executed = Decisions(list(actions), list(actions), [False] * len(actions))
        return lay_out(self._tokenizer, prompt, executed, slots)


def _cut(scores: Scores, row: int, start: int, end: int) -> Scores:
    """One row of a batch, without the slots that are no decision."""
    v, *steps, recovered = (x[row] for x in scores)
    return Scores(v[start : end + 1], *(x[start:end] for x in steps), recovered)


def correlation(returns: np.ndarray, right: Sequence[bool]) -> dict[str, float | None]:
    """Returns Spearman's correlation of return and correctness, and the mean return of each kind.

    All are None if every answer is right, or every one wrong: there is nothing to correlate. So is the
    correlation of returns that are all equal, and the p-value of fewer than three.
    """
    right = np.asarray(right)
    if right.all() or not right.any():
        return {"spearman": None, "p_value": None, "right": None, "wrong": None}
    from scipy import stats  # only here: it takes a second, which every command would wait for

    varies = np.ptp(returns) > 0
    result = stats.spearmanr(returns, right) if varies else None
    return {
        "spearman": float(result.statistic) if varies else None,
        "p_value": float(result.pvalue) if varies and len(right) > 2 else None,
        "right": float(returns[right].mean()),
        "wrong": float(returns[~right].mean()),
    }


def answer_scores(scores: Scores, gamma: float) -> dict[str, float]:
    """Returns the ways to score a whole answer, by name.

    return = V(s_0) + Σₜ γᵗ log π(aₜ|sₜ), since neighbouring V cancel (docs/mathematics.md, section 4):
    among answers to one question it is the discounted likelihood. The sums without γᵗ do not cancel.

    Args:
      scores: of one answer.
      gamma: the discount that they were made with.
    """
    found = {
        "log_likelihood": scores.log_probs.sum(),
        "log_likelihood_per_action": scores.log_probs.mean(),
        "reward_sum": scores.rewards.sum(),
        "reward_min": scores.rewards.min(),
        "value_end": scores.v[-1],
        "value_drops": np.sum(scores.v[:-1] - gamma * scores.v[1:]),
        "return": scores.recovered_return,
    }
    return {name: float(score) for name, score in found.items()}


def value_statistics(
    scores: Sequence[Scores], right: Sequence[bool], questions: Sequence[Hashable], gamma: float
) -> dict[str, dict[str, float | None]]:
    """Returns how well each score tells right answers from wrong ones, by the area under the ROC curve.

    Args:
      scores, right, questions: of each answer; `questions` names what it answers.
      gamma: the discount that the scores were made with.

    Returns:
      For each score, over all pairs of answers (`pooled`), and over pairs to one question (`within`),
      where a score cannot gain by knowing hard questions from easy ones. None where there are no pairs.
    """
    rows = [answer_scores(score, gamma) for score in scores]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: {"pooled": auc(column, right), "within": auc_within(column, right, questions)}
        for name, column in columns.items()
    }
