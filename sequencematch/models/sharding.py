"""How arrays are divided among the devices of a mesh: one ordered table for each family of networks.

A line names parameters and the logical axis of each of their last dimensions; `AXES` says along which
axes of the mesh a logical axis is divided. A parameter that no line covers is an error.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Logical axis -> axes of the mesh. `data` and `fsdp` divide the rows of a batch. `fsdp` divides the
# parameters, too, which are put together where a layer uses them; `model` divides what is computed.
AXES: dict[str | None, tuple[str, ...]] = {
    "rows": ("data", "fsdp"),
    "width": ("fsdp",),  # D
    "heads": ("model",),  # of queries, keys and values
    "wide": ("model",),  # F, of the feed-forward half
    "vocabulary": ("model",),
    "features": ("fsdp", "model"),  # D, where no other axis can be divided
    None: (),
}

T = TypeVar("T")  # a tree of arrays

# The logical axes of the last dimensions of an array.
Logical = tuple[str | None, ...]

# A pattern of the end of a path, and logical axes; of several possibilities the first that divides the
# array.
Line = tuple[str, Sequence[Logical]]

INTO, MIX, OUT = "query|key|value", "gate|up", "out|down"

# Of `Transformer`. Layers into attention or feed-forward are column-parallel and layers out of them
# row-parallel, so that each needs one all-reduce only. The head is divided over the vocabulary, so that
# each device has its share of the logits; a small vocabulary may not divide, and then the head is
# stored in parts of D, as the embedding is. The layers are stacked along a first axis, which is whole.
TRANSFORMER: tuple[Line, ...] = (
    (f"({INTO})/kernel", [("width", "heads")]),
    (f"({INTO})/bias", [("heads",)]),
    (f"({MIX})/kernel", [("width", "wide")]),
    (f"({MIX})/bias", [("wide",)]),
    ("out/kernel", [("heads", "width")]),
    ("down/kernel", [("wide", "width")]),
    # Of an adapter, the side that its kernel is divided on by `model`, and the other by `fsdp`.
    (f"({INTO}|{MIX})/lora_a", [("width", None)]),
    (f"({INTO})/lora_b", [(None, "heads")]),
    (f"({MIX})/lora_b", [(None, "wide")]),
    ("out/lora_a", [("heads", None)]),
    ("down/lora_a", [("wide", None)]),
    (f"({OUT})/lora_b", [(None, "width")]),
    ("head/kernel", [("width", "vocabulary"), ("features", None)]),
    ("embedding/embedding", [("vocabulary", "width"), (None, "features")]),
    ("positions/embedding", [(None, "features")]),
    # The few logits of edits, and all vectors of width D.
    ("edits/kernel", [()]),
    (f"({OUT})/bias", [()]),
    ("[a-z_]*norm/(scale|bias)", [()]),
)

# What a train state has beside parameters and their moments, which have the names of parameters. A
# buffer that rows do not divide is whole on every device.
STATE: tuple[Line, ...] = (
    ("(^|/)(step|added|count|skipped|in_a_row)", [()]),
    ("replay/(trajectories/(start|end|finished)|born)", [("rows",), ()]),
    ("replay/trajectories/[a-z_]+", [("rows", None), ()]),
)

# A network of your own is whole on every device; its batches are divided all the same.
WHOLE: tuple[Line, ...] = (("", [()]),)


def path_name(path: tuple) -> str:
    """The path of an array in a tree, such as blocks/attention/query/kernel."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    # flax may add the name `value` for the array of a parameter, or for the arrays of one in 4 bits. (A
    # layer of ours is called `value` too, but is never last.)
    return re.sub("/value(|/qvalue|/scale)$", r"\1", "/".join(names))


def possibilities(name: str, table: Sequence[Line]) -> Sequence[Logical]:
    """The logical axes of the first line of a table that covers an array.

    Args:
      name: path of the array.
      table: of the family.

    Raises:
      ValueError: no line covers it.
    """
    # The arrays of a kernel in 4 bits are divided as it would be; its few scales may not divide.
    plain = re.sub("kernel/(qvalue|scale)$", "kernel", name)
    for pattern, found in table:
        if re.search(f"(?:{pattern})$", plain):
            return [*found, ()] if plain != name and name.endswith("scale") else found
    raise ValueError(f"no line of the table in models/sharding.py says how {name} is divided")


def spec(logical: Logical, dimensions: int, cuts: Mapping[str, int]) -> P:
    """The axes of the mesh that divide each dimension of an array.

    Args:
      logical: of the last dimensions; empty for an array that is whole.
      dimensions: how many the array has.
      cuts: devices along each axis of the mesh; an axis that is not there divides nothing.
    """
    found = [tuple(a for a in AXES[axis] if cuts.get(a, 1) > 1) for axis in logical]
    if not any(found):
        return P()
    before = [None] * (dimensions - len(logical))
    return P(*before, *(axes[0] if len(axes) == 1 else axes or None for axes in found))


def part_counts(division: P, cuts: Mapping[str, int]) -> list[int]:
    """Into how many parts each of the first dimensions of an array is divided."""
    names = [axes if isinstance(axes, tuple) else (axes,) for axes in division]
    return [math.prod(cuts[axis] for axis in axes if axis) for axes in names]


def partition(
    path: tuple, shape: tuple[int, ...], cuts: Mapping[str, int], table: Sequence[Line]
) -> P:
    """How an array is divided where it is stored, by the first line of the table that covers it.

    Args:
      path: of the array in a pytree.
      shape: its shape.
      cuts: devices along each axis of the mesh.
      table: of the family.

    Raises:
      ValueError: no line covers it, or none of the line's possibilities divides it.
    """
    name = path_name(path)
    for logical in possibilities(name, table):
        found = spec(logical, len(shape), cuts)
        if not any(n % parts for n, parts in zip(shape, part_counts(found, cuts), strict=False)):
            return found
    sizes = " and ".join(f"mesh.{axis}={cuts[axis]}" for axis in ("fsdp", "model") if axis in cuts)
    short = "/".join(name.split("/")[-3 if "kernel/" in name else -2 :])
    raise ValueError(f"{short} of shape {shape} does not divide by {sizes}")


def state_shardings(mesh: Mesh, state: object, table: Sequence[Line] = TRANSFORMER) -> object:
    """The sharding of every array of a train state, by `partition`.

    Args:
      mesh: the devices.
      state: any pytree.
      table: of the family of the network.

    Raises:
      ValueError: no line covers an array, or none of its possibilities divides it.
    """

    def sharding(path: tuple, leaf: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        return NamedSharding(mesh, partition(path, leaf.shape, mesh.shape, (*STATE, *table)))

    return jax.tree_util.tree_map_with_path(sharding, state)
