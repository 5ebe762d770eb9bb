"""How much memory writing a checkpoint takes, in states: sequencematch/memory.py reckons with COPIES.

    python -m experiments.save_memory [--mebibytes=96,384,768]

For each size, and in a process of its own, steps write over the state, as training does, while it is
saved twice; in another they do so without a save. Prints by how many states the peak of resident memory
lies higher. For Linux.
"""

import multiprocessing
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from sequencematch.memory import COPIES
from sequencematch.train import heap
from sequencematch.train.checkpoint import Checkpoints
from sequencematch.train.state import TrainState

SIZES = flags.DEFINE_list("mebibytes", ["96", "384", "768"], "Sizes of the state.")
SAVES = 2
STEPS = 200  # after each


def state_of(mebibytes: int) -> TrainState:
    """Parameters and two moments of that size in all, of arrays of 4 MiB that do not compress."""
    count = mebibytes // 12
    keys = jax.random.split(jax.random.key(0), 3 * count)
    arrays = [jax.random.normal(key, (1024, 1024)) for key in keys]
    return TrainState(jnp.int32(0), arrays[:count], arrays[count:], None, None)


@partial(jax.jit, donate_argnums=0)
def step(state: TrainState) -> TrainState:
    """Writes over everything."""
    return jax.tree.map(lambda x: x * 2 - x, state)._replace(step=state.step + 1)


def peak() -> int:
    """The most bytes of this process that were resident at any time."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def trained(mebibytes: int, saving: bool) -> int:
    """The peak, in bytes, of steps with saves or without."""
    logging.set_verbosity(logging.ERROR)
    heap.limit_arenas()
    state = step(state_of(mebibytes))
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
    """Prints a row for each size."""
    print(f"{'MiB':>6}{'states':>10}   (reckoned with: {COPIES})")
    fresh = multiprocessing.get_context("spawn")
    for size in map(int, SIZES.value):
        with fresh.Pool(1, maxtasksperchild=1) as pool:
            calls = [(size, False), (size, True)]
            without, with_saves = pool.starmap(trained, calls, chunksize=1)
        print(f"{size:6}{(with_saves - without) / (size << 20):10.2f}", flush=True)


if __name__ == "__main__":
    app.run(main)
