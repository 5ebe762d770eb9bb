"""Fingerprints of arrays, which show whether a checkpoint is what was saved.

For an array whose elements have the bits b_i, it is sum_i mix(b_i + mix(i)) mod 2^32, where mix is the
finaliser of murmur3. mix is a bijection, so a change of any single element changes the sum. A
sum of integers does not depend on its order: the fingerprint is the same on any number of devices, and
no array leaves its device.
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
    """sum_i mix(b_i + mix(i)) mod 2^32.

    Args:
      x: an array of any shape, its elements of at most 32 bits.
    """
    # i, the index of each element in row-major order. Flattening x would move data between devices.
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        index = index * size + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(_mix(_bits(x) + _mix(index)), dtype=jnp.uint32)


def _bits(x: Array) -> Array:
    if x.dtype in (bool, jnp.uint4):  # bitcast_convert_type takes no booleans, and whole bytes only
        return x.astype(jnp.uint32)
    view = partial(jax.lax.bitcast_convert_type, new_dtype=_UNSIGNED[x.dtype.itemsize])
    return view(x).astype(jnp.uint32)


def _mix(h: Array) -> Array:
    """fmix32 of murmur3: every bit of the input affects every bit of the output."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
