"""Meshes on networks of devices that are not here, by stand-ins for jax's devices."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from sequencematch.train.mesh import arrange_devices


def stand_ins(shape, slice_index=0, platform="tpu", kind="TPU v4"):
    """Devices as jax describes those of one TPU slice of that shape, or of one host with GPUs."""
    places = itertools.product(*map(range, shape))
    common = dict(platform=platform, device_kind=kind, slice_index=slice_index, core_on_chip=0)
    return [
        SimpleNamespace(
            **common, process_index=slice_index, id=1000 * slice_index + i, coords=place
        )
        for i, place in enumerate(places)
    ]


@pytest.mark.parametrize("data, fsdp", [*itertools.product((1, 2, 4, 8, 16, 32, 64), repeat=2)])
def test_a_slice_of_a_tpu_has_every_mesh(data, fsdp):
    if 64 % (data * fsdp):
        with pytest.raises(ValueError, match="must equal the product"):
            arrange_devices(stand_ins((4, 4, 4)), (data, fsdp, 1))
        return
    sizes = (data, fsdp, 64 // (data * fsdp))
    placed = arrange_devices(stand_ins((4, 4, 4)), sizes)
    assert placed.shape == sizes and len({device.id for device in placed.flat}) == 64


@pytest.mark.parametrize("platform, kind", [("tpu", "TPU v4"), ("gpu", "H100")])
@pytest.mark.parametrize(
    "sizes", [(16, 1, 1), (2, 8, 1), (1, 8, 2), (4, 2, 2), (2, 1, 8), (1, 2, 8)]
)
def test_only_rows_are_divided_among_slices_and_hosts(sizes, platform, kind):
    found = [x for i in (0, 1) for x in stand_ins((2, 4, 1), i, platform, kind)]
    placed = arrange_devices(found, sizes)
    assert placed.shape == sizes and {id(x) for x in placed.flat} == {id(x) for x in found}
    slices = np.vectorize(lambda device: device.slice_index)(placed)
    assert (slices == slices[..., :1]).all()  # along model
    rows = slices[..., 0]
    # Along fsdp only where data has no share for each.
    assert (rows == rows[:, :1]).all() or sizes[0] == 1
    assert (np.diff(rows.ravel()) != 0).sum() == 1


def test_a_mesh_that_divides_weights_among_slices_is_refused():
    found = stand_ins((2, 2, 1)) + stand_ins((2, 2, 1), 1)
    with pytest.raises(ValueError, match="mesh.fsdp must be a multiple of 2$"):
        arrange_devices(found, (1, 1, 8))
