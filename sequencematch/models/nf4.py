"""Weights in 4 bits: NF4 with a scale for every 64 of them (Dettmers et al. 2023, QLoRA).

A weight takes 4.5 bits: 4 for the nearest of 16 levels, which are quantiles of a normal distribution,
and 32 / 64 for its share of the scale, the largest size of the 64. The error is 9 % of normal weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import qwix
from jaxtyping import Array, Float

TILE = 64  # weights, one below the other along the inputs, that share a scale


def quantize(kernel: Float[Array, "*L D F"]) -> qwix.QArray:
    """A matrix in NF4: levels uint4 [*L, D, F] and scales [*L, D/64, F].

    Args:
      kernel: [*L, D, F]; D is a multiple of 64.
    """
    return _map_tiles(lambda tile: qwix.quantize(tile, "nf4"), kernel)


def dequantize(kernel: qwix.QArray) -> Float[Array, "*L D F"]:
    """The matrix that a quantised one stands for, in the dtype of its scales."""
    return _map_tiles(qwix.dequantize, kernel)


def _map_tiles(f: Callable, kernel: Any) -> Any:
    """f of every 64 weights that share a scale."""
    # qwix flattens what it is given, for which a mesh would gather a matrix that is split by columns
    # on every device. A tile is flat already, and all other axes are batch axes here.
    f = jax.vmap(f, -1, -1)
    for _ in kernel.shape[:-1]:
        f = jax.vmap(f)
    tiles = kernel.shape[-2] // TILE

    def cut(x: Array) -> Array:
        return x.reshape(*x.shape[:-2], tiles, -1, x.shape[-1])

    def join(x: Array) -> Array:
        return x.reshape(*x.shape[:-3], -1, x.shape[-1])

    return jax.tree.map(join, f(jax.tree.map(cut, kernel)))
