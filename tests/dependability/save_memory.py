"""How much memory writing a checkpoint takes, in states, against what sequencematch/memory.py reckons.

    python -m tests.dependability.save_memory [--devices=1,2,4,8] [--mebibytes=192]

For so many simulated devices, each of which holds the whole state, and in a process of its own, steps
write over the state, as training does, while it is saved twice; in another they do so without a save.
Prints by how many states the peak of resident memory lies higher. For Linux.
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
STEPS = 200  # after each


def state_of(mebibytes: int) -> TrainState:
    """Parameters and two moments of that size in all, of arrays of 4 MiB that do not compress."""
    count = mebibytes // 12
    keys = jax.random.split(jax.random.key(0), 3 * count)
    arrays = [jax.random.normal(key, (1024, 1024)) for key in keys]
    state = TrainState(jnp.int32(0), arrays[:count], arrays[count:], None, None)
    return jax.device_put(
        state, meshes.replicated_sharding(meshes.make_mesh(jax.device_count(), 1))
    )


@partial(jax.jit, donate_argnums=0)
def step(state: TrainState) -> TrainState:
    """Writes over everything."""
    return jax.tree.map(lambda x: x * 2 - x, state)._replace(step=state.step + 1)


def forget_peak() -> None:
    """The peak is that from now on."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5)


def peak() -> int:
    """The most bytes of this process that were resident at any time."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def trained(mebibytes: int, saving: bool) -> int:
    """The peak, in bytes, of steps with saves or without."""
    logging.set_verbosity(logging.ERROR)
    allocator.limit_arenas()
    state = jax.block_until_ready(step(state_of(mebibytes)))
    forget_peak()
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
    print(f"{'devices':>8}{'states':>8}{'reckoned':>10}")
    os.environ["JAX_PLATFORMS"], fresh = "cpu", multiprocessing.get_context("spawn")
    for devices in map(int, DEVICES.value):
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        with fresh.Pool(1, maxtasksperchild=1) as pool:
            calls = [(SIZE.value, False), (SIZE.value, True)]
            without, with_saves = pool.starmap(trained, calls, chunksize=1)
        reckoned = (
            devices * memory.checkpoint_bytes((memory.Part("", 1 << 20, ()),), devices) / (1 << 20)
        )
        states = (with_saves - without) / (SIZE.value << 20)
        print(f"{devices:8}{states:8.2f}{reckoned:10.2f}", flush=True)


if __name__ == "__main__":
    app.run(main)
