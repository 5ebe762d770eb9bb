"""Where arrays live: a mesh with a data and a model axis, and a table from names to shardings."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
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


def devices() -> list[jax.Device]:
    """All devices.

    Raises:
      ValueError: there are none.
    """
    try:
        return jax.devices()
    except Exception as error:  # a backend can fail to start in any way
        raise ValueError(f"jax finds no device ({type(error).__name__}: {error})") from error


def make_mesh(data: int, model: int) -> Mesh:
    """A mesh of data x model devices.

    Raises:
      ValueError: if there are fewer devices than that.
    """
    have = len(devices())
    if data * model > have:
        raise ValueError(
            f"mesh.data={data} x mesh.model={model} needs {data * model} devices, here are {have}"
        )
    auto = (AxisType.Auto, AxisType.Auto)
    taken = devices()[: data * model]
    return jax.make_mesh((data, model), ("data", "model"), axis_types=auto, devices=taken)


def state_shardings(mesh: Mesh, state) -> object:
    """A sharding for every array of a training state, by the last two names of its path."""

    def sharding(path, leaf) -> NamedSharding:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        # The last name is flax's own for the array in a parameter; a layer is called `value` too.
        names = names[:-1] if names[-1:] == ["value"] else names
        return NamedSharding(mesh, RULES.get("/".join(names[-2:]), P()))

    return jax.tree_util.tree_map_with_path(sharding, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch are spread over the data axis."""
    return NamedSharding(mesh, P("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())
