"""The grids of experiments: their cells are valid, and a branch is what a whole run would be."""

import importlib
import json

import jax
import numpy as np
import pytest

from experiments import tables
from experiments.cells import (
    advance,
    begin,
    folder_of,
    forget,
    judge,
    pack,
    run,
    stem,
    stem_cell,
    unpack,
)
from experiments.grids import GRIDS, Cell, next_cells
from sequencematch.setup.build import make_plan
from sequencematch.setup.check import check_config

SMALL = {
    "data.train": 64,
    "data.validation": 4,
    "data.test": 8,
    "evaluate.examples": 8,
    "evaluate.rows": 8,
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
        config = importlib.import_module(f"configs.{cell.config}").get_config(cell.method)
        if config.model.path:  # the directory may not be there
            config.model.update(path="", preset="smollm2-135m")
        config.update_from_flattened_dict({**cell.changes, **cell.last_changes})
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
@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["bc", "sequencematch"])
def test_a_branch_equals_a_run_of_its_own(tmp_path, capsys, method):
    changes = SMALL | {"data.dir": str(tmp_path / "data"), "objective.alpha": 0.1}
    cell = Cell(method, method, 0, "test", changes)
    parts, first = begin(cell)
    plan = make_plan(parts)
    whole = advance(parts, plan, first, 6, tmp_path / "whole")
    for folder in (tmp_path / "once", tmp_path / "resumed"):
        if folder.name == "resumed":  # after a kill at step 4
            parts, first = begin(cell)  # a state is used up by the steps that begin with it
            start = stem(cell, folder)._replace(replay=first.replay)
            advance(parts, plan, start, 4, folder_of(cell, folder))
        _, _, branch = run(cell, folder)
        jax.tree.map(np.testing.assert_array_equal, branch.params, whole.params)
        forget(cell, folder)
        assert [path.name for path in folder.iterdir()] == [folder_of(stem_cell(cell), folder).name]
    figures = judge(parts, branch, "test")
    tables.print_test_figures({"a": {0: {"figures": json.loads(json.dumps(figures))}}})
    printed = capsys.readouterr().out
    for choice in ("greedy", "sampled"):
        rights = [unpack(x["questions"], x["n"]).mean() for x in figures["wrong_starts"][choice]]
        assert len(rights) == 4 and f"| a | {rights[0]:.1%} [" in printed
