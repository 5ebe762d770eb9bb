"""Fingerprints of arrays, by which a checkpoint that is not what was saved is told.

Of the bits b_i of the elements, sum_i mix(b_i + mix(i)) mod 2^32, with mix the finaliser of murmur3
(a bijection), so that a change of any one element always shows. Sums of integers do not depend on
their order: the fingerprint is the same on any number of devices, and no array leaves its device.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def fingerprints(tree) -> dict[str, UInt32[Array, ""]]:
    """The fingerprint of every array of a tree, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): fingerprint(leaf) for path, leaf in leaves}


def fingerprint(x: Array) -> UInt32[Array, ""]:
    """sum_i mix(b_i + mix(i)) mod 2^32 of one array of elements of up to 32 bits."""
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):  # flattening would move what is sharded
        place = place * size + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(_mix(_bits(x) + _mix(place)), dtype=jnp.uint32)


def _bits(x: Array) -> Array:
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    view = partial(jax.lax.bitcast_convert_type, new_dtype=_UNSIGNED[x.dtype.itemsize])
    return view(x).astype(jnp.uint32)


def _mix(h: Array) -> Array:
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
