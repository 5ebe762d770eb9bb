"""Parameters that are not trained: a step reads them, and nothing else knows of them."""

import jax
import numpy as np
import pytest

from sequencematch.setup.build import make_plan
from tests.train.runs import make_tiny_run

PATTERN = "embedding|blocks"


def arrays(tree):
    """Path -> copy of each array of a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


@pytest.fixture(scope="module")
def frozen_run(spellings):
    """A tiny run that trains the last norm and the head alone, with its arrays in place."""
    run = make_tiny_run(spellings, {"train.frozen": PATTERN})
    parts = run.parts.with_frozen(run.parts.draw())
    return run._replace(parts=parts, plan=make_plan(parts))


def test_trained_and_frozen_parameters_are_those_of_the_whole_network(tiny_run, frozen_run):
    whole, parts = arrays(tiny_run.parts.draw()), frozen_run.parts
    trained, frozen = arrays(parts.initial().params), arrays(parts.frozen)
    assert whole.keys() == trained.keys() | frozen.keys() and not trained.keys() & frozen.keys()
    assert trained and all("embedding" in path or "blocks" in path for path in frozen)
    merged = arrays(parts.whole(parts.initial().params))
    for path, value in whole.items():
        np.testing.assert_array_equal(merged[path], value)


def test_neither_moments_nor_checkpoints_have_frozen_parameters(frozen_run):
    paths = list(arrays(frozen_run.parts.initial()))
    assert [path for path in paths if "blocks" in path or "embedding" in path] == []
    assert [path for path in paths if "opt_state" in path and "head" in path]


@pytest.mark.stress
def test_steps_begin_with_the_same_loss_and_leave_frozen_parameters_as_they_are(
    tiny_run, frozen_run
):
    before, batch = arrays(frozen_run.parts.frozen), tiny_run.episodes[0]
    state, losses = frozen_run.parts.initial(), []
    first = arrays(state.params)
    for _ in range(4):
        state, metrics = frozen_run.plan.phases[0].step(state, batch)
        losses.append(float(metrics["loss"]))
    _, metrics = tiny_run.plan.phases[0].step(tiny_run.parts.initial(), batch)
    assert losses[0] == pytest.approx(float(metrics["loss"]), rel=1e-6)
    assert losses[3] < losses[2] < losses[0]  # the first step is taken at a learning rate of 0
    for path, value in arrays(frozen_run.parts.frozen).items():
        np.testing.assert_array_equal(value, before[path])
    assert all((value != first[path]).any() for path, value in arrays(state.params).items())


@pytest.mark.stress
def test_the_gradient_is_that_of_the_whole_network(tiny_run, frozen_run):
    """Its norm is that of the trained part alone."""
    batch = tiny_run.episodes[0]
    norms = [
        float(run.plan.phases[0].step(run.parts.initial(), batch)[1]["gradient_norm"])
        for run in (frozen_run, tiny_run)
    ]
    assert 0 < norms[0] < norms[1]
