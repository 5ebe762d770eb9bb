"""Training and saving leave no Python objects behind.

Objects can be counted exactly, while memory shows a trend only after an hour (see the soak).
"""

import gc
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest
from scipy.stats import theilslopes

from sequencematch.storage.checkpoint import Checkpoints
from tests.train.runs import STEPS, VALIDATIONS, train

WARM_UP, SAVES = 1000, 24  # rich remembers the last thousand steps


def count_objects():
    """The number of memory blocks that Python's objects take."""
    gc.collect()
    return sys.getallocatedblocks()


def with_steps(plan, steps):
    """The plan with its last phase extended to a number of steps."""
    return plan._replace(phases=[*plan.phases[:-1], plan.phases[-1]._replace(until=steps)])


def objects_per_save(save):
    """Objects that a save leaves after a warm-up: the median, because some saves also free others'."""
    counts = []
    for step in range(SAVES):
        save(step)
        counts.append(count_objects())
    return np.median(np.diff(counts)[SAVES // 2 :])


@pytest.mark.stress
def test_training_leaves_no_objects(tiny_run, tmp_path):
    counts, interval = [], 22 * VALIDATIONS[0]

    class CountingBatches:
        def __getitem__(self, step):
            if step % interval == 0:
                counts.append(count_objects())
            return tiny_run.episodes[step % STEPS]

    plan = with_steps(tiny_run.plan, WARM_UP + 12 * interval)
    train(tiny_run._replace(plan=plan), tmp_path, save_every=plan.steps, data=CountingBatches())
    # An interval has 22 validations, 66 refreshes and 198 steps with a record each: an object left by
    # any of them would show. Counts go up and down by a hundred, so growth is read off their slope.
    growth = theilslopes(counts[-9:]).slope
    assert growth < 22, counts


@pytest.mark.stress
def test_a_save_leaves_no_more_objects_than_orbax_alone(tiny_run, tmp_path):
    state, facts = tiny_run.parts.initial(), {"name": "tiny", "seconds": 1.0}
    with Checkpoints(tmp_path / "ours", keep=2) as checkpoints:

        def save(step):
            checkpoints.save(state._replace(step=np.int32(step)), facts)
            checkpoints.wait()

        ours = objects_per_save(save)
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(tmp_path / "bare", options=options) as manager:

        def save_bare(step):
            manager.save(step, args=ocp.args.StandardSave(state))
            manager.wait_until_finished()

        bare = objects_per_save(save_bare)
    # A tenth and thirty more: ours also saves facts and fingerprints as JSON.
    assert ours <= 1.1 * max(bare, 0) + 30
