"""Low-rank adapters (Hu et al. 2021): how they are applied, added to a model, and merged into it.

Trees of parameters are those of a `Transformer`. An adapter stands beside the kernel that it is for:
…/kernel, …/lora_a and …/lora_b. The kernel may be in 4 bits (Dettmers et al. 2023, QLoRA).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import qwix
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from sequencematch.models import nf4
from sequencematch.models.config import Lora
from sequencematch.models.sharding import path_name

ADAPTER = r"/lora_[ab]$"  # found in the paths of an adapter's parameters
PRODUCT = "product"  # what linear maps put out has this name, for `transformer.REMAT`

# What the kernels of the blocks' linear maps are, beneath adapters -> how one in floats becomes such.
BASES: dict[str, Callable[[Array], Any]] = {
    "float": lambda kernel: kernel,
    "bfloat16": lambda kernel: kernel.astype(jnp.bfloat16),
    "nf4": nf4.quantize,
}


class LowRankLinear(nnx.Linear):
    """y = x W + b + (alpha/r) (x A) B; an `nnx.Linear` with an adapter.

    A is uniform in +-1/sqrt(D), as in PEFT, so that learning rates carry over; B is 0, so that the
    model begins as it was. Both are float32 whatever the kernel is: small updates of bfloat16 are lost.
    """

    def __init__(self, inputs: int, outputs: int, *, lora: Lora, rngs: nnx.Rngs, **options: Any):
        super().__init__(inputs, outputs, rngs=rngs, **options)
        draw = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        # Of a stream of their own: the kernels are those of the model without adapters.
        self.lora_a = nnx.Param(draw(rngs.lora(), (inputs, lora.rank), jnp.float32))
        self.lora_b = nnx.Param(jnp.zeros((lora.rank, outputs), jnp.float32))
        self.scale = lora.scale

    def __call__(
        self, x: Float[Array, "*B D"], low: Float[Array, "rows r"] | None = None
    ) -> Float[Array, "*B F"]:
        """y; `low` is x A, if it is there already."""
        low = times_a([self], x)[0] if low is None else low
        y, b = super().__call__(x), self.lora_b[...].astype(self.dtype)
        return checkpoint_name(y + (self.scale * low @ b).reshape(y.shape), PRODUCT)


def times_a(maps: Sequence[LowRankLinear], x: Float[Array, "*B D"]) -> list[Float[Array, "rows r"]]:
    """x A for each of some maps of one x, by one product that reads x once."""
    a = jnp.concatenate([m.lora_a[...].astype(m.dtype) for m in maps], axis=1)
    # One axis of rows, as in `layers.flat_dot_general`.
    low = x.reshape(-1, x.shape[-1]).astype(a.dtype) @ a
    return jnp.split(checkpoint_name(low, PRODUCT), len(maps), axis=1)


def apply_all(maps: Sequence[nnx.Linear], x: Float[Array, "*B D"]) -> list[Float[Array, "*B F"]]:
    """What linear maps, with or without adapters, make of one x."""
    adapted = [m for m in maps if isinstance(m, LowRankLinear)]
    lows = iter(times_a(adapted, x) if adapted else ())
    return [m(x, next(lows)) if isinstance(m, LowRankLinear) else m(x) for m in maps]


def adapt(params: nnx.State, adapters: nnx.State, lora: Lora) -> nnx.State:
    """The parameters of a network with adapters, from those of one without.

    Args:
      params: without adapters, the kernels in floats or as `lora` wants them.
      adapters: from `adapters_of`; empty for none.
      lora: says what the kernels become.
    """
    return nnx.merge_state(store_kernels(params, lora.base), adapters)


def adapters_of(params: nnx.State) -> nnx.State:
    """The parameters of the adapters alone."""
    return nnx.split_state(params, lambda path, _: is_found(ADAPTER, path), ...)[0]


def is_found(pattern: str, path: tuple) -> bool:
    """Whether a regular expression is found in a path, written as blocks/attention/query/kernel."""
    return bool(re.search(pattern, "/".join(map(str, path))))


def store_kernels(params: nnx.State, base: str) -> nnx.State:
    """Parameters with the kernels of the blocks' linear maps as `BASES` says, one after another."""
    if base == "float":
        return params
    convert = jax.jit(BASES[base])

    def store(path: tuple, param: nnx.Param) -> nnx.Param:
        if not is_found("^blocks/.*/kernel$", path) or isinstance(param[...], qwix.QArray):
            return param
        # Waits, so that what one kernel takes is free before the next.
        return param.replace(jax.block_until_ready(convert(param[...])))

    return nnx.map_state(store, params)


def nf4_kernels(params: nnx.State) -> dict[str, qwix.QArray]:
    """Path -> kernel, or its shapes, of those that are in 4 bits."""

    def is_packed(x: Any) -> bool:
        return isinstance(x, qwix.QArray)

    found = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_packed)
    return {path_name(path): x for path, x in found if is_packed(x)}


def merge(params: nnx.State, lora: Lora) -> nnx.State:
    """The parameters of a network without adapters that computes the same: W + (alpha/r) A B.

    Kernels in 4 bits become the floats that they stand for.
    """
    found: Mapping[tuple, nnx.Param] = dict(nnx.to_flat_state(params))

    def add(path: tuple, param: nnx.Param) -> nnx.Param:
        place, both = path[:-1], None
        if path[-1] == "kernel" and (*place, "lora_a") in found:
            a, b = (found[*place, name][...] for name in ("lora_a", "lora_b"))
            both = lora.scale * a, b
        kernel, merged = param[...], merge_kernel(param[...], both)
        is_packed = isinstance(kernel, qwix.QArray)
        return param.replace(merged if is_packed else merged.astype(kernel.dtype))

    kept = {path: add(path, x) for path, x in found.items() if not is_found(ADAPTER, path)}
    return nnx.from_flat_state(kept)


def merge_kernel(kernel: Any, both: tuple[Array, Array] | None) -> Float[Array, "*shape"]:
    """W + A B of one map or of several, in floats; a parameter as it is, if there are no A and B."""
    kernel = nf4.dequantize(kernel) if isinstance(kernel, qwix.QArray) else kernel
    return kernel if both is None else kernel + jnp.matmul(*both, precision="highest")


def parameter_count(params: Any) -> int:
    """The number of parameters of a tree of arrays or shapes; one in 4 bits is one."""
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, qwix.QArray))
    return sum(math.prod(x.shape) for x in leaves)


def byte_count(params: Any) -> int:
    """The bytes of a tree of arrays or shapes."""
    bits = sum(x.size * jax.dtypes.itemsize_bits(x.dtype) for x in jax.tree.leaves(params))
    return bits // 8
