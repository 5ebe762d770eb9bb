"""Noise on the expert's texts, so that it has something to take back (SequenceMatch, section 3.3).

Before each push of the clean text, with probability eta a wrong token z is pushed, with probability
`run` another after it and so on, then as many `<bkspc>` follow; the retried push may go wrong again.
z is the environment's move, so the label at the first wrong token is the clean one, and at any
further one the mending edit. Host side, and a function of the generator alone.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sequencematch.core.mdp import Mdp
from sequencematch.core.types import Trajectory


def noised(
    rng: np.random.Generator,
    clean: Sequence[int],
    *,
    eta: float,
    run: float,
    wrong: Sequence[int],
    bkspc: int,
) -> tuple[list[int], list[int]]:
    """Lets the environment push wrong tokens into a clean text, and the expert delete them.

    Args:
      rng: source of all chance.
      clean: the expert's text, `<eos>` last.
      eta: probability in [0, 1) that a push goes wrong, at each attempt.
      run: probability in [0, 1) that another wrong token follows a wrong one.
      wrong: ids that z is drawn from, uniformly, the right one excepted.
      bkspc: id of the edit action that mends.

    Returns:
      (executed, labels): the actions that happened, and at each what the expert would have done.
    """
    executed, labels = [], []
    for right in clean:
        while rng.random() < eta:
            z = _wrong_run(rng, right, run, wrong)
            executed += z + [bkspc] * len(z)
            labels += [right] + [bkspc] * (2 * len(z) - 1)
        executed.append(right)
        labels.append(right)
    return executed, labels


def _wrong_run(rng: np.random.Generator, right: int, run: float, wrong: Sequence[int]) -> list[int]:
    """One wrong token, and with probability `run` another, and so on."""
    # Only the first can be told right from wrong: after it, every token is.
    first = [z for z in wrong if z != right]
    tokens = [first[rng.integers(len(first))]]
    while rng.random() < run:
        tokens.append(wrong[rng.integers(len(wrong))])
    return tokens


def wrong_steps(mdp: Mdp, trajectory: Trajectory) -> Bool[Array, " T"]:
    """The times at which the environment pushed another token than the expert's label."""
    executed = jnp.roll(trajectory.tokens, -1)
    return trajectory.valid & jnp.asarray(mdp.ordinary)[executed] & (executed != trajectory.actions)


def wrong_token(
    mdp: Mdp, logits: Float[Array, " V"], right: Int[Array, ""], key: PRNGKeyArray
) -> Int[Array, ""]:
    """Draws a wrong token from the policy: z ~ pi(.|s), z an ordinary token other than `right`."""
    allowed = jnp.asarray(mdp.ordinary) & (jnp.arange(logits.shape[0]) != right)
    return jax.random.categorical(key, jnp.where(allowed, logits, -jnp.inf))


def redrawn(mdp: Mdp, trajectory: Trajectory, z: Int[Array, " T"]) -> Trajectory:
    """The trajectory with the token pushed at each wrong step t replaced by z[t].

    The stack, the mask and the states do not depend on which wrong token was pushed. So an episode
    ships placeholders, one gradient-free pass over it gives l(.|s_t) at its wrong steps (before a
    wrong token s_t holds clean text only), `wrong_token` draws, and nothing but the tokens changes.
    """
    executed = jnp.where(wrong_steps(mdp, trajectory), z, jnp.roll(trajectory.tokens, -1))
    tokens = jnp.roll(executed, 1).astype(trajectory.tokens.dtype)
    return trajectory._replace(tokens=tokens)
