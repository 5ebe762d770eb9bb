"""How parameters are split over the mesh: a table from their names to axes."""

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Parameter name -> how it is split. Column-parallel into a block, row-parallel out of it; embedding
# and head along D, which divides where a small vocabulary does not. Optimiser moments carry the same
# names and are split alike; everything else is replicated.
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
    """A sharding for every array of a training state, by the last two names of its path."""

    def sharding(path, leaf) -> NamedSharding:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        # The last name is flax's own for the array in a parameter; a layer is called `value` too.
        names = names[:-1] if names[-1:] == ["value"] else names
        return NamedSharding(mesh, RULES.get("/".join(names[-2:]), P()))

    return jax.tree_util.tree_map_with_path(sharding, state)
