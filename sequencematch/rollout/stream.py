"""One answer as it is sampled, action by action."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import PRNGKeyArray

from sequencematch.core.mdp import Mdp
from sequencematch.rollout import sampler
from sequencematch.rollout.sampler import Sampling


def actions(
    graph: nnx.GraphDef,
    mdp: Mdp,
    params: nnx.State,
    prompt: np.ndarray,
    start: int,
    key: PRNGKeyArray,
    how: Sampling,
) -> Iterator[int]:
    """Yields the ids of the actions after one prompt, each as soon as it is chosen.

    The same actions as `sampler.sample` takes on a batch of one. The best of several draws cannot be
    yielded before all are made: `decoding.best_of` plays no part.

    Args:
      graph, params: the network, split by `nnx.split`.
      mdp: its decision process.
      prompt: int32[P], right-padded.
      start: slot of the prompt's last token.
      key: of the draws.
      how: how actions are chosen, and where to stop.
    """

    # Parameters are arguments and not constants of the programs: those would hold a copy of them.
    @jax.jit
    def read_prompt(params: nnx.State, *rest: Any) -> sampler.Generation:
        return sampler.begin(nnx.merge(graph, params), *rest, how)

    @jax.jit
    def advance(params: nnx.State, generation: sampler.Generation) -> sampler.Generation:
        return sampler.advance(nnx.merge(graph, params), mdp, generation, how)

    generation = read_prompt(params, prompt[None], np.asarray([start], np.int32), key)
    for taken in range(1, how.max_actions + 1):
        generation = advance(params, generation)
        # Reading them waits for the device: each action is yielded as soon as it is known. To index an
        # array of the device would be a program of its own for each place.
        tokens, done = jax.device_get((generation.tokens, generation.done))
        yield int(tokens[0, start + taken])
        if done[0]:
            return
