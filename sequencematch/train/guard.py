"""The guard against steps that are not finite: they change nothing, are counted, and stop a run.

A step is bad when a term of its loss, the norm of its gradient or the norm of its update is NaN or
infinite. Nothing else can be: the moments and the parameters are sums of what these norms square.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

# The metrics that have to be finite, in the order in which the first culprit is to be looked for.
TERMS = ("bc", "objective", "loss", "gradient_norm", "update_norm")


class Guard(NamedTuple):
    """What the guard has seen, part of the training state.

    Attributes:
      skipped: int32, bad steps so far.
      in_a_row: int32, those since the last good one.
    """

    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]


class Diverged(Exception):
    """Too many bad steps in a row."""


def initial() -> Guard:
    """Nothing bad has happened."""
    return Guard(jnp.int32(0), jnp.int32(0))


def is_finite(metrics: Mapping[str, Array]) -> Bool[Array, ""]:
    """Whether the step whose metrics these are is good; on the device."""
    return jnp.all(jnp.isfinite(jnp.stack([metrics[term] for term in TERMS if term in metrics])))


def count_step(guard: Guard, good: Bool[Array, ""]) -> Guard:
    """The guard after one more step."""
    return Guard(guard.skipped + ~good, jnp.where(good, 0, guard.in_a_row + 1))


def select(good: Bool[Array, ""], new, old):
    """The new tree of arrays after a good step, the old one after a bad one."""
    return jax.tree.map(lambda x, y: jnp.where(good, x, y), new, old)


class Watch:
    """Reads on the host what the guard saw, one step late, so that the device is never kept waiting.

    Args:
      limit: bad steps in a row that are skipped; one more stops the run.
      say: shows a line to the person who watches.
    """

    def __init__(self, limit: int, say: Callable[[str], None]):
        self._limit, self._say = limit, say
        self._last: tuple[int, Mapping[str, Array]] | None = None

    def see(self, step: int, metrics: Mapping[str, Array]) -> None:
        """Takes note of a step, and judges the one before.

        Raises:
          Diverged: more than `limit` steps in a row were bad.
        """
        self.settle()
        self._last = (step, metrics)

    def settle(self) -> None:
        """Judges the last step, if it was not judged yet: before its state is saved or used.

        Raises:
          Diverged: more than `limit` steps in a row were bad.
        """
        last, self._last = self._last, None
        if last is not None and last[1]["skipped_in_a_row"] > 0:
            self._judge(*last)

    def _judge(self, step: int, metrics: Mapping[str, Array]) -> None:
        bad = [term for term in TERMS if term in metrics and not math.isfinite(metrics[term])]
        found = f"step {step}: {', '.join(bad)} not finite"
        in_a_row = int(metrics["skipped_in_a_row"])
        if in_a_row > self._limit:
            raise Diverged(
                f"{found}, in {in_a_row} steps in a row (config.train.skip_nonfinite={self._limit}): "
                "stopped, and no such state was saved; try a smaller optimizer.learning_rate or clip"
            )
        self._say(f"{found}: skipped ({in_a_row} in a row, {int(metrics['skipped'])} in all)")
