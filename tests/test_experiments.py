"""The grids of experiments: their cells are valid, and a branch is what a whole run would be."""

import jax
import numpy as np
import pytest

from experiments.cells import advance, make_parts, pack, run, unpack
from experiments.grids import GRIDS, Cell
from sequencematch.setup.build import make_plan
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults

SMALL = {
    "data.train": 64,
    "data.validation": 4,
    "data.test": 8,
    "model.layers": 1,
    "model.d_model": 16,
    "model.d_ff": 16,
    "train.batch_size": 8,
    "train.steps": 6,
    "train.bc_steps": 3,
    "optimizer.warmup": 1,
    "rollout.rows": 8,
    "rollout.batch_size": 8,
}


@pytest.mark.parametrize("grid", GRIDS)
def test_every_cell_is_a_valid_configuration_of_its_own(grid):
    cells = GRIDS[grid]()
    assert len({(cell.name, cell.seed) for cell in cells}) == len(cells)
    for cell in cells:
        config = defaults()
        changes = {**cell.changes, **cell.last_changes, "method": cell.method}
        config.update_from_flattened_dict(changes)
        check_config(config)


@pytest.mark.parametrize("n", [1, 8, 13])
def test_unpacked_bits_are_those_packed(n):
    bits = np.random.default_rng(n).random(n) < 0.5
    np.testing.assert_array_equal(unpack(pack(bits), n), bits)


@pytest.mark.stress
@pytest.mark.parametrize("method", ["bc", "sequencematch"])
def test_a_branch_equals_a_run_of_its_own(tmp_path, method):
    changes = SMALL | {"data.dir": str(tmp_path / "data"), "objective.alpha": 0.1}
    cell = Cell(method, method, 0, "test", changes)
    whole_parts = make_parts(method, 0, changes)
    whole = advance(whole_parts, make_plan(whole_parts), whole_parts.initial(), 6)
    for _ in range(2):  # the stem is trained by the first, and read from disk by the second
        _, _, branch = run(cell, tmp_path / "stems")
        jax.tree.map(np.testing.assert_array_equal, branch.params, whole.params)
