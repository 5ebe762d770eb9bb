"""Which parameters are trained, where each is, and how adapters join those of a model without."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import ArrayLike
from ml_collections import ConfigDict

from sequencematch.models import lora
from sequencematch.models.sharding import TRANSFORMER, Line, path_name, state_shardings
from sequencematch.setup.defaults import lora_config
from sequencematch.train.state import MakeNetwork, init_parameters, split_parameters


def on_devices(mesh: Mesh, shapes: Any, table: Sequence[Line] = TRANSFORMER) -> Any:
    """Shapes and dtypes of arrays, with where each is to be, by the table of the network's family."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        state_shardings(mesh, shapes, table),
    )


def where(arrays: Any) -> Any:
    """The sharding of each array."""
    return jax.tree.map(lambda x: x.sharding, arrays)


def frozen_parameters(config: ConfigDict) -> Callable[[tuple], bool]:
    """Says of the path of a parameter whether it is not trained.

    With adapters all are frozen but these, the rows of edits, and what `train.unfrozen` adds.
    """

    def has(path: tuple, *patterns: str) -> bool:
        return any(pattern and lora.is_found(pattern, path) for pattern in patterns)

    def is_frozen(path: tuple) -> bool:
        # One after another: patterns that are joined may change each other's meaning.
        trained = (lora.ADAPTER, "^edits/", config.train.unfrozen)
        is_base = config.model.lora_rank > 0 and not has(path, *trained)
        return is_base or has(path, config.train.frozen)

    return is_frozen


def check_patterns(config: ConfigDict, params: nnx.State) -> None:
    """Raises ValueError for a pattern of `train.frozen` or `.unfrozen` that is found in no path."""
    paths = [path for path, _ in nnx.to_flat_state(params)]
    for key in ("frozen", "unfrozen"):
        pattern = config.train[key]
        if pattern and not any(lora.is_found(pattern, path) for path in paths):
            raise ValueError(
                f"config.train.{key}={pattern!r} is found in the path of no parameter; these are "
                f"{', '.join('/'.join(map(str, path)) for path in paths)}"
            )


def split(config: ConfigDict, params: nnx.State) -> tuple[nnx.State, nnx.State]:
    """Divides all parameters of the network into (trained, frozen).

    Raises:
      ValueError: none would be trained, or some that are no floats; with adapters, not in float32.
    """
    trained, frozen = split_parameters(frozen_parameters(config), params)
    found, c = jax.tree_util.tree_leaves_with_path(trained), config.train
    if not found:
        raise ValueError(f"config.train.frozen={c.frozen!r} leaves no parameter to train")
    # Of a kernel in bfloat16 small updates would be lost; a task's own network may have such.
    kind = jnp.float32 if config.model.lora_rank else jnp.floating
    for path, x in found:
        if not jnp.issubdtype(x.dtype, kind):
            name = re.sub("/(qvalue|scale)$", "", path_name(path))
            if not config.model.lora_rank:
                raise ValueError(
                    f"the network's {name} is of {x.dtype} and cannot be trained: freeze what is no "
                    "float (config.train.frozen); random state, such as nnx.Dropout's, has no place"
                )
            raise ValueError(
                f"config.train.unfrozen={c.unfrozen!r} is found in {name}, which is in "
                f"{config.model.lora_base} and cannot be trained"
            )
    return trained, frozen


def without_adapters(
    config: ConfigDict, mesh: Mesh, shapes: nnx.State, table: Sequence[Line] = TRANSFORMER
) -> nnx.State:
    """Shapes of the parameters of the same network without adapters, all in floats.

    Args:
      config: says which adapters there are.
      mesh: the devices.
      shapes: of all parameters.
      table: says where they are.
    """
    if not config.model.lora_rank:
        return on_devices(mesh, shapes, table)
    merge = partial(lora.merge, lora=lora_config(config))
    return on_devices(mesh, jax.eval_shape(merge, shapes))


def add_adapters(
    config: ConfigDict, make: MakeNetwork, seed: ArrayLike, params: nnx.State
) -> nnx.State:
    """All parameters of the network, from those without adapters; new adapters begin as 0.

    Args:
      config: says which adapters there are, and what becomes of kernels.
      make: makes the network.
      seed: that of the run.
      params: as `without_adapters`, with arrays.
    """
    if not config.model.lora_rank:
        return params

    def draw(seed: ArrayLike) -> nnx.State:
        return lora.adapters_of(init_parameters(make, seed))  # the rest is never made

    (mesh,) = {x.sharding.mesh for x in jax.tree.leaves(params)}
    placed = where(on_devices(mesh, jax.eval_shape(draw, seed)))
    return lora.adapt(params, jax.jit(draw, out_shardings=placed)(seed), lora_config(config))
