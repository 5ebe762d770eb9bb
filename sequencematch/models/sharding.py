"""How parameters are split over the mesh: a table from parameter names to mesh axes."""

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
}


def path_name(path: tuple) -> str:
    """The path of an array in a tree, such as blocks/attention/query/kernel."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    # flax may add a last name `value` for the array of a parameter. (A layer of ours is called
    # `value` too, but is never last.)
    return "/".join(names[:-1] if names[-1:] == ["value"] else names)


def state_shardings(mesh: Mesh, state) -> object:
    """The sharding of every array of a train state, looked up by the last two names of its path.

    Args:
      mesh: a mesh with an axis `model`.
      state: any pytree.

    Raises:
      ValueError: no partition of an array divides it.
    """

    def sharding(path, leaf) -> NamedSharding:
        name = "/".join(path_name(path).split("/")[-2:])
        for last_axes in RULES.get(name, [P()]):
            # The parameters of all layers are stacked along a first axis, which is not split.
            spec = P(*[None] * (leaf.ndim - len(last_axes)), *last_axes) if last_axes else P()
            cuts = [mesh.shape[axis] if axis else 1 for axis in spec]
            if all(size % cut == 0 for size, cut in zip(leaf.shape, cuts, strict=False)):
                return NamedSharding(mesh, spec)
        raise ValueError(
            f"{name} of shape {leaf.shape} does not divide by mesh.model={mesh.shape['model']}"
        )

    return jax.tree_util.tree_map_with_path(sharding, state)
