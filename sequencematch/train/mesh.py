"""The devices of a run as a mesh with a data and a model axis, and the placement of batches on it."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sequencematch.storage.provenance import devices


def make_mesh(data: int, model: int) -> Mesh:
    """A mesh of data x model devices.

    Args:
      data: devices over which the rows of a batch are split.
      model: devices over which each weight matrix is split.

    Raises:
      ValueError: there are fewer devices than that, or none.
    """
    available, needed = devices(), data * model
    if needed > len(available):
        raise ValueError(
            f"mesh.data={data} x mesh.model={model} needs {needed} devices, but jax finds "
            f"{len(available)}"
        )
    if jax.process_count() > 1 and needed < len(available):
        raise ValueError(
            f"mesh.data={data} x mesh.model={model} are {needed} of {len(available)} devices: in a "
            f"run of {jax.process_count()} processes all take part"
        )
    # Auto: states and batches are placed where they enter and leave a step; XLA shards what is inside.
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, model), ("data", "model"), types, devices=available[:needed])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch are split over the data axis."""
    return NamedSharding(mesh, P("data"))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, P())


def round_up_rows(mesh: Mesh, rows: int) -> int:
    """The smallest number of rows, at least `rows`, that divides evenly over the data axis."""
    return -(-rows // mesh.shape["data"]) * mesh.shape["data"]


def place_rows(sharding: NamedSharding, rows: Any) -> Any:
    """A batch on the devices, of which each process gives the rows of its own devices.

    Args:
      sharding: of the batch.
      rows: arrays of this process' rows, in order.
    """
    return jax.make_array_from_process_local_data(sharding, rows)


def own_shares(sharding: NamedSharding) -> tuple[list[int], int]:
    """(Which shares of a batch this process feeds, of how many); one share a group of devices."""
    shares = sharding.mesh.shape["data"]
    if jax.process_count() == 1:
        return [0], 1
    found = sharding.addressable_devices_indices_map((shares,)).values()
    return sorted({rows.start or 0 for (rows,) in found}), shares
