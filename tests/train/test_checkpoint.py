"""A run that is cut and resumed is, bit for bit, the run that was not; damage is said in one line."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from sequencematch import config as configuration
from sequencematch import validation
from sequencematch.run import build, make_plan, training_data
from sequencematch.train import loop
from sequencematch.train.checkpoint import Checkpoints
from sequencematch.train.log import MetricsLog

CLONING, STEPS, EVERY = 4, 12, 3  # refreshes before steps 4, 7 and 10
TINY = {
    "task": "jsonl",
    "data.train": 40,
    "data.validation": 8,
    "data.test": 8,
    "prompt_slots": 5,
    "max_actions": 6,
    "model.layers": 1,
    "model.d_model": 16,
    "model.heads": 2,
    "model.kv_heads": 1,
    "model.d_ff": 16,
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup": 2,
    "train.steps": STEPS,
    "train.batch_size": 8,
    "train.bc_steps": CLONING,
    "objective.alpha": 0.1,
    "rollout.every": EVERY,
    "rollout.rows": 4,
    "rollout.capacity": 8,
    "rollout.batch_size": 4,
    "log_every": 1,
    "evaluate.every": 5,
}


class Crash(Exception):
    """The power fails."""


class Cut:
    """Batches, until the power fails."""

    def __init__(self, batches, at):
        self._batches, self._at = batches, at

    def __getitem__(self, i):
        if i == self._at:
            raise Crash
        return self._batches[i]


@pytest.fixture(scope="module")
def parts(spellings):
    """(run, plan, episodes, prompts), compiled once for all tests."""
    config = configuration.defaults()
    config.update_from_flattened_dict(TINY | {"data.path": spellings})
    validation.validate(config)
    run = build(config)
    return run, make_plan(run), *training_data(run)


def train(parts, folder, *, save_every, keep=2, resume=False, crash_at=None):
    """Trains in a folder, from the start or its newest checkpoint; returns the last state."""
    run, plan, episodes, prompts = parts
    state, seconds = run.initial(), 0.0
    if resume:
        with Checkpoints(folder) as checkpoints:
            state, seconds = checkpoints.restore(run.like)
    with Checkpoints(folder, keep) as checkpoints, MetricsLog(folder, int(state.step)) as log:
        return loop.train(
            plan._replace(save_every=save_every),
            state,
            Cut(episodes, crash_at),
            prompts,
            lambda state: {"accuracy/greedy": float(state.step)},
            checkpoints,
            log,
            seconds,
        )[0]


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    """(folder, last state) of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(parts, folder, save_every=STEPS)


def records(folder):
    """Lines of metrics.jsonl, without what the clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "tokens_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def bits(state):
    """Every array of a state by its path, as bytes."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in leaves}


@pytest.mark.parametrize("saved", [2, CLONING, 6, 7, 11])
def test_a_resumed_run_is_the_uninterrupted_one(parts, whole, tmp_path, saved):
    with pytest.raises(Crash):
        # One more step than was saved: its record must not be there twice.
        train(parts, tmp_path, save_every=saved, crash_at=saved + 1 if saved < 11 else saved)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    state = train(parts, tmp_path, save_every=saved, resume=True)
    assert bits(state) == bits(whole[1])
    assert records(tmp_path) == records(whole[0])


def test_a_run_may_be_cut_twice(parts, whole, tmp_path):
    for crash_at, resume in ((3, False), (9, True)):
        with pytest.raises(Crash):
            train(parts, tmp_path, save_every=2, crash_at=crash_at, resume=resume)
    state = train(parts, tmp_path, save_every=5, resume=True)
    assert bits(state) == bits(whole[1])
    assert records(tmp_path) == records(whole[0])


def test_every_step_and_every_look_is_recorded_once(whole):
    found = [(r["kind"], r["step"]) for r in records(whole[0])]
    looks = [("validation", step) for step in (5, 10, STEPS)]
    assert sorted(found) == sorted([("train", step + 1) for step in range(STEPS)] + looks)


def test_what_is_saved_is_not_what_training_makes_of_it(parts, tmp_path):
    run, plan, episodes, _ = parts
    state = run.initial()
    with Checkpoints(tmp_path, 1) as checkpoints:
        for i in range(3):
            batch = jax.device_put(episodes[i], plan.batch_sharding)
            if i == 1:
                before = bits(state)
                checkpoints.save(state, 4.5)
            state, _ = plan.phases[0].step(state, batch)
    with Checkpoints(tmp_path) as checkpoints:
        restored, seconds = checkpoints.restore(run.like)
    assert (bits(restored), seconds) == (before, 4.5)
    assert bits(state) != before
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), (restored, run.like))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_are_kept_and_reading_removes_none(parts, tmp_path, keep):
    train(parts, tmp_path, save_every=3, keep=keep)
    kept = {"3", "6", "9", "12"} if keep > 3 else {str(12 - 3 * i) for i in range(keep)}
    for _ in range(2):
        assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == kept
        with Checkpoints(tmp_path) as checkpoints:
            assert int(checkpoints.restore(parts[0].like)[0].step) == STEPS


def test_no_checkpoint_is_said_and_nothing_is_made(parts, tmp_path):
    folder = tmp_path / "run"
    for _ in range(2):
        with Checkpoints(folder) as checkpoints, pytest.raises(ValueError) as raised:
            checkpoints.restore(parts[0].like)
        assert str(raised.value).startswith(f"no checkpoint in {folder / 'checkpoints'}: ")
        assert len(str(raised.value).splitlines()) == 1
        assert not list(tmp_path.iterdir())


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "no arrays": lambda folder: remove(folder / "state"),
    "no times": lambda folder: remove(folder / "meta"),
    "no time": lambda folder: remove(folder / "meta" / "metadata"),
    "half a time": lambda folder: halve(folder / "meta" / "metadata"),
    "no tree": lambda folder: remove(folder / "state" / "_METADATA"),
    "half a tree": lambda folder: halve(folder / "state" / "_METADATA"),
    "no index": lambda folder: remove(folder / "state" / "manifest.ocdbt"),
    "half an index": lambda folder: halve(folder / "state" / "manifest.ocdbt"),
    "no data": lambda folder: [remove(p) for p in folder.rglob("d") if p.is_dir()],
    "half the data": lambda folder: [halve(p) for d in folder.rglob("d") for p in d.iterdir()],
    "nothing": lambda folder: [remove(p) for p in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line_that_names_it(parts, whole, tmp_path, damage, capfd):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints" / str(STEPS)
    DAMAGES[damage](folder)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError) as raised:
        checkpoints.restore(parts[0].like)
    assert str(folder) in str(raised.value) and "damaged" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert capfd.readouterr().err == ""


def test_whichever_file_is_damaged_what_is_restored_was_saved(parts, whole, tmp_path, capfd):
    source, refused = whole[0] / "checkpoints" / str(STEPS), 0
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    for i, (damage, file) in enumerate(itertools.product((remove, halve), files)):
        folder = tmp_path / f"{i}" / "checkpoints" / str(STEPS)
        shutil.copytree(source, folder)
        damage(folder / file)
        with Checkpoints(tmp_path / f"{i}") as checkpoints:
            try:
                assert bits(checkpoints.restore(parts[0].like)[0]) == bits(whole[1])
            except ValueError as error:
                assert f"{folder} is damaged" in str(error)
                refused += 1
    assert refused > 4
    assert "Traceback" not in capfd.readouterr().err


def test_a_checkpoint_of_another_model_is_one_line(parts, whole):
    def wider(x):
        return jax.ShapeDtypeStruct([n + 1 for n in x.shape], x.dtype, sharding=x.sharding)

    like = parts[0].like
    other = like._replace(params=jax.tree.map(wider, like.params))
    with Checkpoints(whole[0]) as checkpoints, pytest.raises(ValueError) as raised:
        checkpoints.restore(other)
    assert "of another model" in str(raised.value) and len(str(raised.value).splitlines()) == 1
