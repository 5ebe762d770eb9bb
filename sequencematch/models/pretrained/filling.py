"""Fills parameters on the devices that hold them, layer by layer."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import ArrayLike

from sequencematch.models import nf4


def fill(
    leaf: jax.ShapeDtypeStruct, found: jax.Array | None, part: np.ndarray, layer: int | None
) -> jax.Array:
    """A parameter with one more of its layers, or all of one that has no layers.

    Args:
      leaf: what the parameter is to be.
      found: what of it has been filled; it is used up.
      part: of the checkpoint.
      layer: which layer it is.
    """
    sharding = leaf.sharding
    if layer is None:
        return _convert(leaf.dtype, sharding)(place(part, sharding))
    if found is None:
        found = _zeros(leaf.shape, leaf.dtype, sharding)()
    on_device = place(part, layer_sharding(sharding))
    # Waits, so that no more than one tensor is on its way.
    return jax.block_until_ready(_set_layer(sharding)(found, on_device, layer))


def fill_nf4(
    kernel: qwix.QArray,
    leaf: jax.ShapeDtypeStruct,
    found: qwix.QArray | None,
    part: np.ndarray,
    layer: int | None,
) -> qwix.QArray:
    """A kernel in 4 bits with one more of its layers, whose floats exist no longer than it takes.

    Args:
      kernel: what it is to be.
      leaf: what it is in floats.
      found, part, layer: as of `fill`.
    """
    if found is None:
        found = jax.tree.map(lambda x: _zeros(x.shape, x.dtype, x.sharding)(), kernel)
    sharding = layer_sharding(leaf.sharding)
    floats = _convert(leaf.dtype, sharding)(place(part, sharding))
    packed = _quantize(floats)
    return jax.block_until_ready(
        jax.tree.map(lambda x, new: _set_layer(x.sharding)(x, new, layer), found, packed)
    )


def place(part: np.ndarray, sharding: Sharding | None) -> jax.Array:
    """An array on the devices of a sharding, to which each process copies its own shards.

    Of several processes `jax.device_put` would compare the whole, and gather it on every device first.
    """
    if sharding is None:
        return jax.device_put(part)
    return jax.make_array_from_callback(part.shape, sharding, lambda index: part[index])


def layer_sharding(sharding: Sharding | None) -> Sharding | None:
    """The sharding of one layer of a parameter; the axis of layers is not split."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


# Programs are kept, one for each shape: compiling them takes longer than reading a small model.
@cache
def _zeros(shape: tuple[int, ...], dtype: Any, sharding: Sharding | None) -> Callable:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@cache
def _convert(dtype: Any, sharding: Sharding | None) -> Callable:
    return jax.jit(lambda part: part.astype(dtype), out_shardings=sharding)


_quantize = jax.jit(nf4.quantize)


@cache
def _set_layer(sharding: Sharding | None) -> Callable:
    def set_layer(stacked: jax.Array, part: jax.Array, layer: ArrayLike) -> jax.Array:
        return stacked.at[layer].set(part.astype(stacked.dtype))

    # In place: the array that is filled exists once.
    return jax.jit(set_layer, out_shardings=sharding, donate_argnums=0)
