"""How parameters are split over the mesh: a table from parameter names to mesh axes."""

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Parameter name -> partition. Layers into attention or feed-forward are column-parallel and layers out
# of them row-parallel, so each needs one all-reduce only. Embedding and head are split along D, because
# a small vocabulary may not divide by the number of devices. Optimiser moments have the same names, so
# they are split in the same way. Everything else is replicated.
RULES = {
    "query/kernel": P(None, "model"),
    "key/kernel": P(None, "model"),
    "value/kernel": P(None, "model"),
    "gate/kernel": P(None, "model"),
    "up/kernel": P(None, "model"),
    "out/kernel": P("model", None),
    "down/kernel": P("model", None),
    "head/kernel": P("model", None),
    "embedding/embedding": P(None, "model"),
}


def state_shardings(mesh: Mesh, state) -> object:
    """The sharding of every array of a train state, looked up by the last two names of its path.

    Args:
      mesh: a mesh with an axis `model`.
      state: any pytree.
    """

    def sharding(path, leaf) -> NamedSharding:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        # flax may add a last name `value` for the array of a parameter. (A layer of ours is called
        # `value` too, but is never last.)
        names = names[:-1] if names[-1:] == ["value"] else names
        return NamedSharding(mesh, RULES.get("/".join(names[-2:]), P()))

    return jax.tree_util.tree_map_with_path(sharding, state)
