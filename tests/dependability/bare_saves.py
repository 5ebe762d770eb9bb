"""Measures the memory that each orbax save leaves behind, without training and without our code.

    python -m tests.dependability.bare_saves RUN [--saves=300]

orbax alone, in a process of its own, saves the newest state of a run again and again. Prints what
each save adds in the second half, when orbax's pools are full: kB of resident memory and Python
objects, each with its standard error.

Most of the objects are strings that tensorstore 0.1.86 makes of JSON for Python and does not free;
orbax 0.12.8 has it make them for each array of each save, and for its metrics. That our Checkpoints
leave no more, and that training leaves nothing, is tested in tests/storage/test_growth.py.
"""

import gc
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import psutil
from absl import app, flags, logging
from scipy.stats import linregress

from tests.dependability.same_run import read_arrays
from tests.dependability.watched import last_saved_step

SAVES = flags.DEFINE_integer("saves", 300, "How often to save.", lower_bound=20)


def newest_state(run: Path) -> Any:
    """The arrays of a run's newest checkpoint."""
    folder = run.absolute() / "checkpoints" / str(last_saved_step(run)) / "state"
    return jax.tree.map(jnp.asarray, read_arrays(folder))


def measure_saves(state: Any, saves: int) -> np.ndarray:
    """Saves a state repeatedly; returns [kB of resident memory, objects] after each save."""
    process, found = psutil.Process(os.getpid()), []
    with tempfile.TemporaryDirectory() as folder:
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        with ocp.CheckpointManager(folder, options=options) as manager:
            for step in range(saves):
                manager.save(step, args=ocp.args.StandardSave(state))
                manager.wait_until_finished()
                gc.collect()  # else garbage would count as left behind
                found.append((process.memory_info().rss / 1e3, sys.getallocatedblocks()))
    return np.array(found)


def main(argv: list[str]) -> None:
    """Prints what a save adds."""
    logging.set_verbosity(logging.ERROR)
    found = measure_saves(newest_state(Path(argv[1])), SAVES.value)[SAVES.value // 2 :]
    for name, values in zip(("kB of memory", "objects"), found.T, strict=True):
        fit = linregress(np.arange(len(values)), values)
        print(f"{fit.slope:.1f} +- {fit.stderr:.1f} {name} left by each save")


if __name__ == "__main__":
    app.run(main)
