"""Measures the memory that writing a checkpoint takes, against the estimate in setup/memory.py.

    python -m tests.dependability.save_memory [--devices=1,2,4,8] [--mebibytes=192]

For each number of simulated devices, all of which hold the whole state, one process runs steps that
overwrite the state, as training does, while it is saved twice; another runs the same steps without
saves. Prints by how many sizes of the state the peak of resident memory differs. Linux only.
"""

import multiprocessing
import os
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from sequencematch.setup import memory
from sequencematch.storage import allocator
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.train import mesh as meshes
from sequencematch.train.state import TrainState

DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of simulated devices.")
SIZE = flags.DEFINE_integer("mebibytes", 192, "Size of the state.", lower_bound=12)
SAVES = 2
STEPS = 200  # after each save


def make_state(mebibytes: int) -> TrainState:
    """A state of this size on every device: parameters and two moments, in arrays of 4 MiB.

    They are random, so that compression does not shrink them.
    """
    count = mebibytes // 12
    keys = jax.random.split(jax.random.key(0), 3 * count)
    arrays = [jax.random.normal(key, (1024, 1024)) for key in keys]
    state = TrainState(jnp.int32(0), arrays[:count], arrays[count:], None, None)
    return jax.device_put(
        state, meshes.replicated_sharding(meshes.make_mesh(jax.device_count(), 1))
    )


@partial(jax.jit, donate_argnums=0)
def step(state: TrainState) -> TrainState:
    """Overwrites every array."""
    return jax.tree.map(lambda x: x * 2 - x, state)._replace(step=state.step + 1)


def reset_peak() -> None:
    """Makes the kernel measure the peak from now on."""
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


def peak() -> int:
    """The peak of this process's resident memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def measure_peak(mebibytes: int, saving: bool) -> int:
    """Runs steps with or without saves; returns the peak in bytes."""
    logging.set_verbosity(logging.ERROR)
    allocator.limit_arenas()  # as the main job does
    state = jax.block_until_ready(step(make_state(mebibytes)))
    reset_peak()
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(Path(folder), keep=1) as checkpoints,
    ):
        for _ in range(SAVES):
            if saving:
                checkpoints.save(state, {})
            for _ in range(STEPS):
                state = step(state)
            jax.block_until_ready(state)
            checkpoints.wait()
    return peak()


def main(argv: list[str]) -> None:
    """Prints a row for each number of devices."""
    print(f"{'devices':>8}{'states':>8}{'estimate':>10}")
    os.environ["JAX_PLATFORMS"], spawn = "cpu", multiprocessing.get_context("spawn")
    for devices in map(int, DEVICES.value):
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        # A fresh process for each call, so that neither finds memory that the other has left.
        with spawn.Pool(1, maxtasksperchild=1) as pool:
            calls = [(SIZE.value, False), (SIZE.value, True)]
            without, with_saves = pool.starmap(measure_peak, calls, chunksize=1)
        estimate = (
            devices * memory.checkpoint_bytes((memory.Part("", 1 << 20, ()),), devices) / (1 << 20)
        )
        states = (with_saves - without) / (SIZE.value << 20)
        print(f"{devices:8}{states:8.2f}{estimate:10.2f}", flush=True)


if __name__ == "__main__":
    app.run(main)
