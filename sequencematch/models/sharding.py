"""How parameters are split over the mesh: a table from parameter names to mesh axes."""

from collections.abc import Mapping

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

COLUMNS = ("query", "key", "value", "gate", "up")

# Parameter name -> partitions of its last axes, of which the first that divides the array is taken.
# Layers into attention or feed-forward are column-parallel and layers out of them row-parallel, so each
# needs one all-reduce only. The head is split over the vocabulary, so that each device has its share of
# the logits; a small vocabulary may not divide by the number of devices, and then the head is split
# along D, as the embedding is. Optimiser moments have the same names, so they are split in the same
# way. Everything else is replicated, the few logits of edits as well.
RULES = {
    **{f"{name}/kernel": [P(None, "model")] for name in COLUMNS},
    **{f"{name}/bias": [P("model")] for name in COLUMNS},
    "out/kernel": [P("model", None)],
    "down/kernel": [P("model", None)],
    "head/kernel": [P(None, "model"), P("model", None)],
    "embedding/embedding": [P(None, "model")],
    "positions/embedding": [P(None, "model")],
    # Of an adapter, the side that its kernel is split on.
    **{f"{name}/lora_b": [P(None, "model")] for name in COLUMNS},
    "out/lora_a": [P("model", None)],
    "down/lora_a": [P("model", None)],
}


def path_name(path: tuple) -> str:
    """The path of an array in a tree, such as blocks/attention/query/kernel."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    # flax may add the name `value` for the array of a parameter, or for the arrays of one in 4 bits. (A
    # layer of ours is called `value` too, but is never last.)
    at = -2 if names[-1:] in (["qvalue"], ["scale"]) and len(path) > 1 else -1
    return "/".join(names[:at] + names[at:][1:] if names[at:][:1] == ["value"] else names)


def partition(path: tuple, shape: tuple[int, ...], cuts: Mapping[str, int]) -> P:
    """How an array is split, looked up by the last two names of its path.

    Args:
      path: of the array in a pytree.
      shape: its shape.
      cuts: devices along each axis of the mesh.

    Raises:
      ValueError: no partition of the array divides it.
    """
    names = path_name(path).split("/")
    # The arrays of a kernel in 4 bits are split as it would be; its few scales may not divide.
    in_4_bits = names[-2:-1] == ["kernel"]
    name = "/".join(names[-3:-1] if in_4_bits else names[-2:])
    for last_axes in [*RULES.get(name, [P()]), *[P()] * (names[-2:] == ["kernel", "scale"])]:
        # The parameters of all layers are stacked along a first axis, which is not split.
        spec = P(*[None] * (len(shape) - len(last_axes)), *last_axes) if last_axes else P()
        if all(size % cuts.get(axis, 1) == 0 for size, axis in zip(shape, spec, strict=False)):
            return spec
    raise ValueError(f"{name} of shape {shape} does not divide by mesh.model={cuts['model']}")


def state_shardings(mesh: Mesh, state) -> object:
    """The sharding of every array of a train state, by `partition`.

    Args:
      mesh: a mesh with an axis `model`.
      state: any pytree.

    Raises:
      ValueError: no partition of an array divides it.
    """

    def sharding(path, leaf) -> NamedSharding:
        return NamedSharding(mesh, partition(path, leaf.shape, mesh.shape))

    return jax.tree_util.tree_map_with_path(sharding, state)
