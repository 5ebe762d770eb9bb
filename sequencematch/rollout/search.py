"""Answers that are chosen as a whole: the likeliest of several draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Episode
from sequencematch.models.network import Network
from sequencematch.rollout.sampler import Sampling, episodes, sample


class Answers(NamedTuple):
    """Answers to a batch of prompts.

    Attributes:
      episodes: the answers, of T slots.
      log_probs: float32[B, T], log pi(a_t|s_t), as of `sampler.Generation`.
      taken: int32[B], actions that each has taken: those of all its draws.
    """

    episodes: Episode
    log_probs: Float[Array, "B T"]
    taken: Int[Array, " B"]


def answer(
    model: Network,
    mdp: Mdp,
    prompts: Int[Array, "B P"],
    start: Int[Array, " B"],
    key: PRNGKeyArray,
    how: Sampling,
    *,
    first: int | Int[Array, ""] = 0,
    begun: Int[Array, "B K"] | None = None,
) -> Answers:
    """Completions as `sampler.sample` makes them; of `how.decoding.best_of` draws the likeliest.

    Likely is what has a large sum of log π(a|s) over its actions. Draws that came to an end go before
    those that the limit on actions has cut, whose texts may be shorter.

    Args:
      model, mdp, prompts, start, key, how, first, begun: as of `sampler.sample`.
    """

    def attempt(key: PRNGKeyArray) -> tuple[Episode, Array, Array]:
        final = sample(model, mdp, prompts, start, key, how, first=first, begun=begun)
        return episodes(mdp, final), final.log_probs, final.done

    if how.decoding is None or how.decoding.best_of == 1:
        found, log_probs, _ = attempt(key)
        return Answers(found, log_probs, found.end - found.start)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(how.decoding.best_of))
    found, log_probs, ended = jax.lax.map(attempt, keys)
    comes_first = ended | ~jnp.any(ended, axis=0)
    best = jnp.argmax(jnp.where(comes_first, log_probs.sum(axis=2), -jnp.inf), axis=0)
    rows = jnp.arange(prompts.shape[0])
    chosen = jax.tree.map(lambda x: x[best, rows], (found, log_probs))
    return Answers(*chosen, jnp.sum(found.end - found.start, axis=0))
