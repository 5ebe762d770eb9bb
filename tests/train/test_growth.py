"""Nothing piles up: Python counts its objects exactly, where memory only shows a trend in an hour."""

import gc
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest

from sequencematch.storage.checkpoint import Checkpoints
from tests.train.runs import LOOKS, STEPS, train

WARM, SAVES = 1000, 24  # rich remembers a thousand steps


def objects():
    """How many there are."""
    gc.collect()
    return sys.getallocatedblocks()


def longer(plan, steps):
    """The plan with a longer last phase."""
    return plan._replace(phases=[*plan.phases[:-1], plan.phases[-1]._replace(until=steps)])


def per_save(save):
    """Objects that a save leaves, once everything is warm: the median, for some saves tidy up."""
    counts = []
    for step in range(SAVES):
        save(step)
        counts.append(objects())
    return np.median(np.diff(counts)[SAVES // 2 :])


@pytest.mark.stress
def test_training_leaves_nothing(parts, tmp_path):
    counts, each = [], 22 * LOOKS[0]

    class Counting:
        def __getitem__(self, step):
            if step % each == 0:
                counts.append(objects())
            return parts.episodes[step % STEPS]

    plan = longer(parts.plan, WARM + 12 * each)
    train(parts._replace(plan=plan), tmp_path, save_every=plan.steps, data=Counting())
    # In between are 22 looks, 66 refreshes and 198 steps, each of which is recorded, too.
    assert abs(np.median(np.diff(counts)[-8:])) < 22


@pytest.mark.stress
def test_a_save_leaves_no_more_than_orbax_alone(parts, tmp_path):
    state, facts = parts.run.initial(), {"name": "tiny", "seconds": 1.0}
    with Checkpoints(tmp_path / "ours", keep=2) as checkpoints:

        def save(step):
            checkpoints.save(state._replace(step=np.int32(step)), facts)
            checkpoints.wait()

        ours = per_save(save)
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(tmp_path / "bare", options=options) as manager:

        def save_bare(step):
            manager.save(step, args=ocp.args.StandardSave(state))
            manager.wait_until_finished()

        bare = per_save(save_bare)
    assert ours <= 1.1 * max(bare, 0) + 30
