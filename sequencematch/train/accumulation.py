"""The gradient of a loss over a batch, taken all at once or a part of the batch at a time."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from sequencematch.core.reductions import Mean
from sequencematch.train.statistics import EMPTY, Metrics, Statistics, merge, read

Batch = TypeVar("Batch")  # a pytree of arrays with a leading axis B
Loss = Callable[[nnx.State, Batch], tuple[Mean, Statistics]]


def accumulate_gradients(
    loss: Loss, params: nnx.State, batch: Batch, parts: int
) -> tuple[Float[Array, ""], nnx.State, Metrics]:
    """Value, gradient and metrics of a loss over a batch, as if it were taken all at once.

    With sums S_i and counts n_i of the parts, the loss is sum_i S_i / n with n = sum_i n_i, so its
    gradient is sum_i dS_i / n: divided once, by the count of the whole batch.

    Args:
      loss: (parameters, part of the batch) -> (its mean, not divided yet; its metrics).
      params: the parameters.
      batch: arrays with a leading axis that `parts` divides.
      parts: how many parts; the memory of the loss is that of one part.

    Returns:
      (the loss, its gradient, metrics of the whole batch).
    """

    def differentiate(part: Batch) -> tuple[nnx.State, Statistics]:
        def total(params: nnx.State) -> tuple[Array, Statistics]:
            mean, statistics = loss(params, part)
            return mean.total, statistics | {"loss": mean}

        (_, statistics), gradient = jax.value_and_grad(total, has_aux=True)(params)
        return gradient, statistics

    gradient, statistics = (
        differentiate(batch) if parts == 1 else _sum_over_parts(differentiate, batch, parts)
    )
    n = jnp.maximum(statistics["loss"].count, 1.0)
    metrics = read(statistics)
    return metrics.pop("loss"), optax.tree.scale(1 / n, gradient), metrics


def _sum_over_parts(
    differentiate: Callable[[Batch], tuple[nnx.State, Statistics]], batch: Batch, parts: int
) -> tuple[nnx.State, Statistics]:
    """Sums gradients, and merges statistics, over the parts."""
    # Part i takes rows i, i + parts, ...: each device then finds its rows of a part among its own.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    gradients, statistics = jax.eval_shape(differentiate, jax.tree.map(lambda x: x[0], split))
    nothing = optax.tree.zeros_like(gradients)
    empty = {name: EMPTY[type(found)] for name, found in statistics.items()}
    empty = jax.tree.map(lambda x: jnp.float32(x), empty)

    def add(found: tuple, part: Batch) -> tuple[tuple, None]:
        gradient, statistics = differentiate(part)
        return (optax.tree.add(found[0], gradient), merge(found[1], statistics)), None

    summed, _ = jax.lax.scan(add, (nothing, empty), split)
    return summed
