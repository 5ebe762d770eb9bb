"""Parameters and activations as a network computes with them on a mesh.

Where they are stored, parameters are divided along the axes fsdp and model (`sharding`). What is
computed is divided along data and fsdp by rows, and along model by heads, by F and by ids. So a layer
first puts its parameters together along fsdp, and their gradients are summed and divided again.
"""

from collections.abc import Mapping
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from sequencematch.models.sharding import (
    AXES,
    TRANSFORMER,
    partition,
    path_name,
    possibilities,
    spec,
)

T = TypeVar("T")  # a tree of arrays


def where_computed(path: tuple, shape: tuple[int, ...], cuts: Mapping[str, int]) -> P:
    """How a parameter of a `Transformer` is divided where it is computed with.

    Args:
      path, shape: of the parameter.
      cuts: devices along each axis of the mesh.
    """
    cuts = {axis: size for axis, size in cuts.items() if axis != "fsdp"}
    # Of the ids each device has some, also where they cannot be stored like this: else each would
    # compute all logits.
    first, *_ = possibilities(path_name(path), TRANSFORMER)
    if "vocabulary" in first:
        return spec(first, len(shape), cuts)
    return partition(path, shape, cuts, TRANSFORMER)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def move(used: NamedSharding, back: tuple[NamedSharding, ...], x: Array) -> Array:
    """An array, divided in another way; its gradient is divided in some ways after another."""
    return jax.lax.with_sharding_constraint(x, used)


def _move_back(used: NamedSharding, back: tuple[NamedSharding, ...], _: None, gradient: Array):
    # Divided here, not where the optimiser reads it: the sum over devices is then one of parts, and
    # no device ever has the gradients of all layers.
    for sharding in back:
        gradient = jax.lax.with_sharding_constraint(gradient, sharding)
    return (gradient,)


move.defvjp(lambda used, back, x: (move(used, back, x), None), _move_back)


def put_together(mesh: Mesh, params: T, dtype: str | None = None) -> T:
    """Parameters as they are computed with: whole along `fsdp`, divided along `model`.

    To be called where a layer uses them, so that those of one layer are whole at a time.

    Args:
      mesh: the devices.
      params: some of a `Transformer`'s; the ends of their paths are enough.
      dtype: matrices are first cast to it, as less is moved then; None to leave them, where gradients
        of several uses are added up.
    """

    def whole(path: tuple, x: Array) -> Array:
        stored = partition(path, x.shape, mesh.shape, TRANSFORMER)
        used = where_computed(path, x.shape, mesh.shape)
        if stored == used:
            return x
        if not jnp.issubdtype(x.dtype, jnp.floating):  # in 4 bits, which have no gradient
            return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, used))
        x = x if dtype is None else x.astype(dtype)
        # By ids first, also where they do not divide: else the gradients of logits were made whole.
        first, *_ = possibilities(path_name(path), TRANSFORMER)
        back = dict.fromkeys((spec(first, x.ndim, mesh.shape), stored))
        if path_name(path).endswith("embedding"):
            # What the tokens of a device give is added up there: else XLA would hand each the states of
            # all tokens, to add up its columns.
            back = dict.fromkeys((used, *back))
        return move(NamedSharding(mesh, used), tuple(NamedSharding(mesh, p) for p in back), x)

    return jax.tree_util.tree_map_with_path(whole, params)


def divide_rows(mesh: Mesh, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Activations, of which each device has its rows; XLA might divide them like the parameters."""
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(AXES["rows"])))


def append(logits: Float[Array, "*B V"], edits: Float[Array, "*B E"]) -> Float[Array, "*B V+E"]:
    """The logits of edits after others, of which each device has some.

    To concatenate what is divided, XLA would first make it whole.
    """
    V, E = logits.shape[-1], edits.shape[-1]
    both = jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, E)])
    for i in range(E):
        both = jnp.where(jnp.arange(V + E) == V + i, edits[..., i, None], both)
    return both
