"""The devices of a run as a mesh with a data and a model axis, and where its batches go."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sequencematch.storage.provenance import devices


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


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch are spread over the data axis."""
    return NamedSharding(mesh, P("data"))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())
