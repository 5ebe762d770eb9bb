"""The grids of experiments: their cells are valid, and a branch is what a whole run would be."""

import jax
import numpy as np
import pytest

from experiments.cells import advance, make_parts, pack, run, unpack
from experiments.grids import GRIDS, Cell, next_cells
from sequencematch.setup.build import make_plan
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults
from tests.marks import exhaustive

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


def ranked_run(cells, accuracy):
    """The cells that a grid runs, in order, where `accuracy` is that of a name."""
    done = {}
    while missing := next_cells(cells, done):
        done[missing[0].name, missing[0].seed] = accuracy(missing[0].name)
    return list(done)


def test_choosing_grids_keep_the_better_half_of_each_method_with_every_seed():
    cells = [
        Cell(f"{m}{i}", m, s, "validation", {}) for s in range(3) for m in "ab" for i in range(8)
    ]
    runs = ranked_run(cells, lambda name: float(name[1:]) + (100 if name[0] == "a" else 0))
    for seed, n in enumerate([8, 4, 2]):
        names = {name for name, s in runs if s == seed}
        assert names == {f"{m}{i}" for m in "ab" for i in range(8 - n, 8)}


def test_the_grids_of_tables_run_every_cell():
    cells = GRIDS["table_5000"]()
    assert ranked_run(cells, len) == [(cell.name, cell.seed) for cell in cells]


@pytest.mark.parametrize("n", [1, 8, 13])
def test_unpacked_bits_are_those_packed(n):
    bits = np.random.default_rng(n).random(n) < 0.5
    np.testing.assert_array_equal(unpack(pack(bits), n), bits)


@pytest.mark.stress
@pytest.mark.parametrize("method", [exhaustive("bc"), "sequencematch"])
def test_a_branch_equals_a_run_of_its_own(tmp_path, method):
    changes = SMALL | {"data.dir": str(tmp_path / "data"), "objective.alpha": 0.1}
    cell = Cell(method, method, 0, "test", changes)
    whole_parts = make_parts(method, 0, changes)
    whole = advance(whole_parts, make_plan(whole_parts), whole_parts.initial(), 6)
    for _ in range(2):  # the stem is trained by the first, and read from disk by the second
        _, _, branch = run(cell, tmp_path / "stems")
        jax.tree.map(np.testing.assert_array_equal, branch.params, whole.params)
