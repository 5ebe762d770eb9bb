"""The devices of a run as a mesh with axes data, fsdp and model, and the placement of batches on it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sequencematch.models.sharding import AXES
from sequencematch.storage.provenance import devices


def make_mesh(data: int = 1, fsdp: int = 1, model: int = 1) -> Mesh:
    """A mesh of data x fsdp x model devices.

    Args:
      data: devices over which the rows of a batch are split.
      fsdp: devices over which rows are split, too, and each weight matrix where it is stored.
      model: devices over which each weight matrix is split, and what is computed with it.

    Raises:
      ValueError: there are fewer devices than that, or none, or they cannot be joined so.
    """
    available, needed = devices(), data * fsdp * model
    asked = f"mesh.data={data} x mesh.fsdp={fsdp} x mesh.model={model}"
    if needed > len(available):
        # Of several processes all take part.
        rows = len(available) if jax.process_count() > 1 else 1
        raise ValueError(
            f"{asked} needs {needed} devices, but jax finds {len(available)}: name another mesh, "
            f"such as --config.mesh.data={rows} --config.mesh.fsdp=1 --config.mesh.model=1"
        )
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise ValueError(
            f"this is one of {jax.process_count()} hosts of a TPU: start all, with --cluster=tpu"
        )
    if jax.process_count() > 1 and needed < len(available):
        raise ValueError(
            f"{asked} are {needed} of {len(available)} devices: in a "
            f"run of {jax.process_count()} processes all take part"
        )
    try:
        placed = arrange_devices(available[:needed], (data, fsdp, model))
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"{asked}: {error}") from error
    # Auto: states and batches are placed where they enter and leave a step; XLA shards what is inside.
    return Mesh(placed, ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)


def describe_idle(mesh: Mesh) -> str:
    """What is said of devices that a mesh does not use; "" where there are none."""
    found, used = len(devices()), mesh.size
    if used == found:
        return ""
    told, along_others = f"{found - used} of {found} devices stay idle", used // mesh.shape["data"]
    more = f"; --config.mesh.data={found // along_others} takes them in"
    return told + more * (found % along_others == 0)


def arrange_devices(found: Sequence[Any], sizes: tuple[int, int, int]) -> np.ndarray:
    """Devices in the order of a mesh, so that neighbours in it are neighbours in their network.

    Slices of a TPU, and hosts with GPUs, are joined by a slower network than the devices inside. What
    crosses it is the exchange of gradients along `data`, then along `fsdp`, and nothing along `model`.

    Args:
      found: jax's devices, as many as the mesh has.
      sizes: of data, fsdp and model.

    Returns:
      An array of devices, of that shape.

    Raises:
      ValueError: rows cannot be divided among the slices.
      NotImplementedError, AssertionError: the network of a TPU has no such mesh.
    """
    slices = len({getattr(device, "slice_index", 0) for device in found})
    data, fsdp, model = sizes
    along_data = math.gcd(data, slices)
    along_fsdp = slices // along_data
    if fsdp % along_fsdp:
        raise ValueError(
            f"each of {slices} slices or hosts needs the same share of the rows, so mesh.data x "
            f"mesh.fsdp must be a multiple of {slices}"
        )
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, found, allow_split_physical_axes=True)
    inside, across = (data // along_data, fsdp // along_fsdp, model), (along_data, along_fsdp, 1)
    return mesh_utils.create_hybrid_device_mesh(
        inside, across, found, allow_split_physical_axes=True
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch are split over the axes data and fsdp."""
    return NamedSharding(mesh, P(AXES["rows"]))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, P())


def row_shares(mesh: Mesh) -> int:
    """Into how many shares the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in AXES["rows"])


def round_up_rows(mesh: Mesh, rows: int) -> int:
    """The smallest number of rows, at least `rows`, that the devices can share evenly."""
    shares = row_shares(mesh)
    return -(-rows // shares) * shares


def place_rows(sharding: NamedSharding, rows: Any) -> Any:
    """A batch on the devices, of which each process gives the rows of its own devices.

    Args:
      sharding: of the batch.
      rows: arrays of this process' rows, in order.
    """
    return jax.make_array_from_process_local_data(sharding, rows)


def own_shares(sharding: NamedSharding) -> tuple[list[int], int]:
    """(Which shares of a batch this process feeds, of how many); one share a group of devices."""
    shares = row_shares(sharding.mesh)
    if jax.process_count() == 1:
        return [0], 1
    found = sharding.addressable_devices_indices_map((shares,)).values()
    return sorted({rows.start or 0 for (rows,) in found}), shares
