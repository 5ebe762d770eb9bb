"""Samples and their scores, for the tests of sampler and decoding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.reductions import legal_logits
from sequencematch.core.trajectory import build_trajectory
from sequencematch.rollout import sampler
from sequencematch.rollout.sampler import Sampling

PAD, BOS, EOS, BKSPC, POP_TWO, RESET = range(6)
LETTERS = range(6, 12)
EDITS = {BKSPC: 1, POP_TWO: 2, RESET: 99}  # no text here is as long
MDP = mdp.make(12, eos=EOS, pad=PAD, never=[BOS], edits=EDITS | {RESET: mdp.EVERYTHING})
ROWS, WIDTH, ACTIONS = 24, 5, 14


@partial(nnx.jit, static_argnames=("actions", "decoding"))
def sample(model, prompts, start, key, *, actions=ACTIONS, decoding=None):
    """(Episodes, log-probabilities) of so many actions."""
    return read_samples(
        MDP, sampler.sample(model, MDP, prompts, start, key, Sampling(actions, decoding))
    )


def read_samples(decisions, generation):
    """(Episodes, log-probabilities) of the last state of sampling."""
    return sampler.episodes(decisions, generation), generation.log_probs


@nnx.jit
def read(model, episodes):
    """Logits [B, T, V] at the state of each time, from one masked pass without a cache."""
    t = jax.vmap(partial(build_trajectory, MDP))(episodes)
    hidden = model.hidden(t.tokens, t.visibility)
    return model.logits(jnp.take_along_axis(hidden, t.state[..., None], axis=1))


def score(model, episodes):
    """The same, with -inf at ids that are not actions."""
    return legal_logits(read(model, episodes), MDP.legal)


def to_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def rows(episodes):
    """(prompt, executed actions) of each row."""
    for tokens, start, end in zip(episodes.tokens, episodes.start, episodes.end, strict=True):
        yield tokens[: start + 1].tolist(), tokens[start + 1 : end + 1].tolist()


def decision_mask(episodes):
    """bool[B, T], the times at which an action was taken."""
    time = np.arange(episodes.tokens.shape[1])
    return (episodes.start[:, None] <= time) & (time < episodes.end[:, None])


def finished_rows(episodes):
    """bool[B], whether `<eos>` ended the row."""
    return np.array([EOS in actions for _, actions in rows(episodes)])
