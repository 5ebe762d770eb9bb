"""The noise of the data, in samples: the environment pushes a wrong token instead of what was chosen.

Then the occupancies of data and samples belong to one decision process (docs/mathematics.md, sections
3 and 6).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from sequencematch.core.hard_negatives import wrong_logits
from sequencematch.core.mdp import Mdp
from sequencematch.rollout.decoding import draw


class RolloutNoise(NamedTuple):
    """Which wrong tokens the environment pushes in samples, and how often.

    Attributes:
      eta: probability in [0, 1) that a push, or `<eos>`, goes wrong.
      run: probability in [0, 1) that another wrong token follows a wrong one where an edit is chosen,
        which the expert always does; a push goes wrong then by `eta`, too.
      wrong: bool[V], the ordinary tokens that z is drawn from uniformly; None to draw z ~ pi(.|s).
    """

    eta: float
    run: float
    wrong: Bool[np.ndarray, " V"] | None


def went_wrong(
    chosen: Int[Array, "B T"],
    tokens: Int[Array, "B T"],
    start: Int[Array, " B"],
    time: Int[Array, " B"],
) -> Bool[Array, " B"]:
    """Whether a wrong token took the place of the last action: z is never what was chosen."""
    # Row by row, as in the sampler. At the first decision nothing was chosen before.
    differs = jax.vmap(lambda chosen, tokens, time: chosen[time - 1] != tokens[time])
    return (time > start) & differs(chosen, tokens, time)


def disturb(
    noise: RolloutNoise,
    mdp: Mdp,
    logits: Float[Array, "B V"],
    chosen: Int[Array, " B"],
    before: Bool[Array, " B"],
    keys: Key[Array, " B"],
) -> Int[Array, " B"]:
    """Returns what is executed in every row: the action that was chosen, or a wrong token z.

    Args:
      noise: the probabilities.
      mdp: the decision process; what pops never begins to go wrong.
      logits: float32[B, V], l(.|s).
      chosen: int32[B], the actions chosen at s.
      before: bool[B], whether the last action went wrong.
      keys: a random key for each row, with which its action may have been drawn.
    """
    pops = jnp.asarray(mdp.pops)

    def execute(logits: Array, action: Array, before: Array, key: Key[Array, ""]) -> Array:
        # The action was drawn with the key, or with its split: fold_in(key, 0) and fold_in(key, 1).
        begins, continues, which = jax.random.split(jax.random.fold_in(key, 2), 3)
        is_wrong = (pops[action] == 0) & jax.random.bernoulli(begins, noise.eta)
        is_wrong |= before & jax.random.bernoulli(continues, noise.run)
        scores = logits if noise.wrong is None else jnp.where(noise.wrong, 0.0, -jnp.inf)
        return jnp.where(is_wrong, draw(which, wrong_logits(mdp, scores, action)), action)

    return jax.vmap(execute)(logits, chosen, before, keys)
