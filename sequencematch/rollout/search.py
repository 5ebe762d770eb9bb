"""Answers that are chosen as a whole: the likeliest of several draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Episode
from sequencematch.models.network import Network
from sequencematch.rollout import sampler
from sequencematch.rollout.decoding import Decoding


class Answers(NamedTuple):
    """Answers to a batch of prompts.

    Attributes:
      episodes: the answers, of T slots.
      log_probs: float32[B, T], as of `sampler.sample`.
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
    *,
    max_actions: int,
    first: int | Int[Array, ""] = 0,
    decoding: Decoding | None = None,
    stop_at: int = 0,
    begun: Int[Array, "B K"] | None = None,
) -> Answers:
    """Completions as `sampler.sample` makes them; of `decoding.best_of` draws the likeliest.

    Likely is what has a large sum of log π(a|s) over its actions. Draws that came to an end go before
    those that the limit on actions has cut, whose texts may be shorter.

    Args:
      model, mdp, prompts, start, key, max_actions, first, stop_at, begun: as of `sampler.sample`.
      decoding: how an answer is chosen; None draws from the policy itself.
    """

    def attempt(key: PRNGKeyArray) -> tuple[Episode, Array, Array]:
        begin = sampler.begin(model, prompts, start, key, max_actions, first, decoding, begun)
        limits = dict(max_actions=max_actions, stop_at=stop_at)
        final = sampler.complete(model, mdp, begin, decoding=decoding, **limits)
        return sampler.episodes(mdp, final), final.log_probs, final.done

    if decoding is None or decoding.best_of == 1:
        episodes, log_probs, _ = attempt(key)
        return Answers(episodes, log_probs, episodes.end - episodes.start)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(decoding.best_of))
    episodes, log_probs, ended = jax.lax.map(attempt, keys)
    comes_first = ended | ~jnp.any(ended, axis=0)
    best = jnp.argmax(jnp.where(comes_first, log_probs.sum(axis=2), -jnp.inf), axis=0)
    rows = jnp.arange(prompts.shape[0])
    chosen = jax.tree.map(lambda x: x[best, rows], (episodes, log_probs))
    return Answers(*chosen, jnp.sum(episodes.end - episodes.start, axis=0))
