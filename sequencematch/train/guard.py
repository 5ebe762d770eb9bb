"""Skips training steps that are not finite, counts them, and stops a run after too many in a row.

A step is bad if a term of its loss, the norm of its gradient or the norm of its update is NaN or
infinite. Checking these is enough: all new moments and parameters are sums of what the norms square.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

# The metrics that have to be finite, from cause to effect: the first bad one is where to look.
TERMS = ("bc", "objective", "loss", "gradient_norm", "update_norm")


class Guard(NamedTuple):
    """Counts of bad steps, part of the train state.

    Attributes:
      skipped: int32, bad steps so far.
      in_a_row: int32, bad steps since the last good one.
    """

    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]


class Diverged(Exception):
    """Too many bad steps in a row."""


def init() -> Guard:
    """The guard of a run without steps."""
    return Guard(jnp.int32(0), jnp.int32(0))


def is_finite(metrics: Mapping[str, Array]) -> Bool[Array, ""]:
    """Whether every term of a step's metrics is finite; computed on the device."""
    return jnp.all(jnp.isfinite(jnp.stack([metrics[term] for term in TERMS if term in metrics])))


def count_step(guard: Guard, good: Bool[Array, ""]) -> Guard:
    """The guard after one more step."""
    return Guard(guard.skipped + ~good, jnp.where(good, 0, guard.in_a_row + 1))


def select(good: Bool[Array, ""], new, old):
    """The new tree of arrays after a good step, the old one after a bad one."""
    return jax.tree.map(lambda x, y: jnp.where(good, x, y), new, old)


class Monitor:
    """Reports bad steps and stops the run, on the host.

    Args:
      limit: bad steps in a row that are skipped; one more stops the run.
      report: prints a line.
    """

    def __init__(self, limit: int, report: Callable[[str], None]):
        self._limit, self._report = limit, report
        self._pending: tuple[int, Mapping[str, Array]] | None = None

    def observe(self, step: int, metrics: Mapping[str, Array]) -> None:
        """Queues the metrics of a step, and checks those of the step before.

        Raises:
          Diverged: more than `limit` steps in a row were bad.
        """
        # Reading metrics waits for their step. One step late, the device has the next one to work on.
        self.flush()
        self._pending = (step, metrics)
        if isinstance(count := metrics["skipped_in_a_row"], jax.Array):
            count.copy_to_host_async()

    def flush(self) -> None:
        """Checks the queued step, if any. Call it before a state is saved or used.

        Raises:
          Diverged: more than `limit` steps in a row were bad.
        """
        pending, self._pending = self._pending, None
        # An int: to compare arrays is a program, which devices run after the step that is next.
        if pending is None or int(pending[1]["skipped_in_a_row"]) == 0:
            return
        step, metrics = pending
        bad = [term for term in TERMS if term in metrics and not math.isfinite(metrics[term])]
        in_a_row = int(metrics["skipped_in_a_row"])
        problem = f"step {step}: {', '.join(bad)} not finite"
        if in_a_row > self._limit:
            raise Diverged(
                f"{problem}, in {in_a_row} steps in a row (config.train.skip_nonfinite={self._limit}): "
                "stopped without saving such a state; try a smaller optimizer.learning_rate or clip"
            )
        self._report(f"{problem}: skipped ({in_a_row} in a row, {int(metrics['skipped'])} in all)")
