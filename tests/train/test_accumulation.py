"""A batch that is taken in parts gives the loss, gradient and metrics of the whole."""

from functools import partial

import jax
import numpy as np
import pytest

from sequencematch.train import step as steps
from tests.marks import exhaustive, stress
from tests.train.runs import make_tiny_run

METHODS = {
    "matching": {"method": "sequencematch", "objective.weighting": "uniform"},
    "hard negatives": {"method": "bc", "noise.kind": "policy"},
    "unlikelihood": {"method": "unlikelihood"},
}


def steps_in_parts(spellings, tiny_run, changes, parts):
    """(a function that takes a step, a state to begin with, batches)."""
    run = make_tiny_run(spellings, {**changes, "train.accumulate": parts})
    state = run.parts.initial()
    if run.plan.phases[-1].samples:  # neither parts nor weights play a part in samples
        state = tiny_run.plan.refresh(state, *run.prompts[0])
    name = {"unlikelihood": "unlikelihood", "bc": "imitation"}.get(changes["method"], "matching")
    step = jax.jit(partial(steps.STEPS[name], run.parts.recipe))
    return step, state, run.episodes


@pytest.mark.parametrize("name", [stress("matching"), *map(exhaustive, [*METHODS][1:])])
def test_parts_equal_the_whole(spellings, tiny_run, name):
    found = []
    for parts in (1, 2):
        step, state, episodes = steps_in_parts(spellings, tiny_run, METHODS[name], parts)
        after, metrics = step(state, episodes[0])
        found.append((jax.device_get(metrics), jax.device_get(after.opt_state)))
    (whole, moments), (parts, others) = found
    assert whole.keys() == parts.keys()
    for key in whole:
        np.testing.assert_allclose(parts[key], whole[key], rtol=2e-5, atol=1e-6, err_msg=key)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), others, moments)


@pytest.mark.stress
@pytest.mark.exhaustive
def test_parts_do_not_drift_from_the_whole(spellings, tiny_run):
    """Over 50 steps the losses differ by rounding, as often up as down."""
    losses = []
    for parts in (1, 2):
        step, state, episodes = steps_in_parts(spellings, tiny_run, METHODS["matching"], parts)
        losses.append([])
        for i in range(50):
            state, metrics = step(state, episodes[i])
            losses[-1].append(float(metrics["loss"]))
    difference = np.subtract(*losses)
    assert np.abs(difference).max() < 1e-4
    assert abs(difference.mean()) < 1e-5
