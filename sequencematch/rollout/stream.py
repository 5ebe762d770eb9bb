"""One answer as it is written, action by action."""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from flax import nnx

from sequencematch.core.mdp import Mdp
from sequencematch.rollout import decoding, sampler


def actions(
    graph: nnx.GraphDef,
    mdp: Mdp,
    params: nnx.State,
    prompt: np.ndarray,
    start: int,
    *,
    max_actions: int,
    choose: decoding.Choice = decoding.greedy,
    seed: int = 0,
) -> Iterator[int]:
    """Yields the ids of the actions on one prompt, each as soon as it is chosen.

    Args:
      graph, mdp, params: the policy.
      prompt: int32[P], right padded.
      start: slot of the prompt's last token.
      max_actions: where to stop without `<eos>`.
      choose: how an action is chosen from the logits.
      seed: of the draws.
    """

    @jax.jit
    def advance(params: nnx.State, generation: sampler.Generation) -> sampler.Generation:
        return sampler.advance(nnx.merge(graph, params), mdp, generation, choose)

    begin = partial(sampler.begin, max_actions=max_actions)
    opened = jax.jit(lambda params, *rest: begin(nnx.merge(graph, params), *rest))
    starts = np.asarray([start], np.int32)
    generation = opened(params, prompt[None], starts, jax.random.key(seed))
    for taken in range(1, max_actions + 1):
        generation = advance(params, generation)
        yield int(generation.tokens[0, start + taken])
        if generation.done[0]:
            return
