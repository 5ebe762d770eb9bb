"""One answer as it is sampled, action by action."""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from flax import nnx

from sequencematch.core.keys import Purpose, random_key
from sequencematch.core.mdp import Mdp
from sequencematch.rollout import sampler
from sequencematch.rollout.decoding import Decoding


def actions(
    graph: nnx.GraphDef,
    mdp: Mdp,
    params: nnx.State,
    prompt: np.ndarray,
    start: int,
    *,
    max_actions: int,
    decoding: Decoding,
    stop_at: int = 0,
    seed: int = 0,
) -> Iterator[int]:
    """Yields the ids of the actions after one prompt, each as soon as it is chosen.

    The same actions as `sampler.sample` takes on a batch of one, with the first key of `ANSWERS`. The
    best of several draws cannot be yielded before all are made: `decoding.best_of` plays no part.

    Args:
      graph, params: the network, split by `nnx.split`.
      mdp: its decision process.
      prompt: int32[P], right-padded.
      start: slot of the prompt's last token.
      max_actions: where to stop if nothing else ends the answer.
      decoding: how actions are chosen.
      stop_at: number of tokens at which it ends as well; 0 for none.
      seed: seed of the random draws.
    """

    @jax.jit
    def advance(params: nnx.State, generation: sampler.Generation) -> sampler.Generation:
        return sampler.advance(nnx.merge(graph, params), mdp, generation, decoding, stop_at)

    # Parameters are arguments and not constants of the programs: those would hold a copy of them.
    begin = partial(sampler.begin, max_actions=max_actions, decoding=decoding)
    read_prompt = jax.jit(lambda params, *rest: begin(nnx.merge(graph, params), *rest))
    starts = np.asarray([start], np.int32)
    generation = read_prompt(params, prompt[None], starts, random_key(seed, Purpose.ANSWERS))
    for taken in range(1, max_actions + 1):
        generation = advance(params, generation)
        # Reading them waits for the device: each action is yielded as soon as it is known. To index an
        # array of the device would be a program of its own for each place.
        tokens, done = jax.device_get((generation.tokens, generation.done))
        yield int(tokens[0, start + taken])
        if done[0]:
            return
