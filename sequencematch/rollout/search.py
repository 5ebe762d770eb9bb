"""Answers that are chosen as a whole: the likeliest of several draws."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Episode
from sequencematch.models.network import Network
from sequencematch.rollout import sampler
from sequencematch.rollout.decoding import Decoding


def answer(
    model: Network,
    mdp: Mdp,
    prompts: Int[Array, "B P"],
    start: Int[Array, " B"],
    key: PRNGKeyArray,
    *,
    max_actions: int,
    decoding: Decoding | None = None,
    **rest: Any,
) -> tuple[Episode, Float[Array, "B T"]]:
    """Completions as `sampler.sample` makes them; of `decoding.best_of` draws the likeliest.

    Likely is what has a large sum of log π(a|s) over its actions. Draws that came to an end go before
    those that the limit on actions has cut, whose texts may be shorter.

    Args:
      model, mdp, prompts, start, key, max_actions, rest: as of `sampler.sample`.
      decoding: how an answer is chosen; None draws from the policy itself.
    """

    def attempt(key: PRNGKeyArray) -> tuple[Episode, Float[Array, "B T"]]:
        how = dict(max_actions=max_actions, decoding=decoding, **rest)
        return sampler.sample(model, mdp, prompts, start, key, **how)

    if decoding is None or decoding.best_of == 1:
        return attempt(key)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(decoding.best_of))
    episodes, log_probs = jax.lax.map(attempt, keys)
    last = jnp.take_along_axis(episodes.labels, episodes.end[..., None] - 1, axis=2)[..., 0]
    ended = (last == mdp.eos) | (episodes.end - episodes.start < max_actions)
    comes_first = ended | ~jnp.any(ended, axis=0)
    best = jnp.argmax(jnp.where(comes_first, log_probs.sum(axis=2), -jnp.inf), axis=0)
    rows = jnp.arange(prompts.shape[0])
    return jax.tree.map(lambda x: x[best, rows], (episodes, log_probs))
