"""What a save leaves in memory for good, with no training and none of our code around it.

    python -m experiments.bare_saves RUN [--saves=300]

Orbax alone, in a process of its own, saves the newest state of a run again and again. Of the second
half, when its pools are full, prints the MB that each save adds, and the standard error.

A part of it are strings that tensorstore 0.1.86 converts from JSON for Python (`KvStore.Spec.to_json`
for one) and does not free; orbax 0.12.8 has it do so for each array of each save.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import psutil
from absl import app, flags, logging

from experiments.same_run import restored
from experiments.watched import saved

SAVES = flags.DEFINE_integer("saves", 300, "How often to save.", lower_bound=20)


def newest(run: Path) -> Any:
    """The arrays of a run's newest checkpoint."""
    folder = run.absolute() / "checkpoints" / str(saved(run)) / "state"
    return jax.tree.map(jnp.asarray, restored(folder))


def after_each(state: Any, saves: int) -> np.ndarray:
    """Resident memory in MB after each save."""
    process, memory = psutil.Process(os.getpid()), []
    with tempfile.TemporaryDirectory() as folder:
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        with ocp.CheckpointManager(folder, options=options) as manager:
            for step in range(saves):
                manager.save(step, args=ocp.args.StandardSave(state))
                manager.wait_until_finished()
                memory.append(process.memory_info().rss / 1e6)
    return np.array(memory)


def line(times: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope of the least squares line, and its standard error."""
    t = times - times.mean()
    slope = (t @ values) / (t @ t)
    rest = values - values.mean() - slope * t
    return float(slope), float(np.sqrt((rest @ rest) / (len(t) - 2) / (t @ t)))


def main(argv: list[str]) -> None:
    """Prints [MB, its error]."""
    logging.set_verbosity(logging.ERROR)
    memory = after_each(newest(Path(argv[1])), SAVES.value)
    full = memory[len(memory) // 2 :]
    print(json.dumps(line(np.arange(len(full)), full)))


if __name__ == "__main__":
    app.run(main)
