"""A mesh changes where arrays live, not their values."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.train.mesh import make_mesh
from tests.marks import stress
from tests.train.runs import (
    CLONING,
    STEPS,
    BatchesWithEvent,
    Crash,
    crash,
    make_tiny_run,
    records,
    train,
)

ONE = (1, 1)
SMALL = (2, 2)
MANY = [SMALL, *map(stress, [(2, 4), (8, 1), (4, 2)])]


@pytest.fixture(scope="module")
def train_on(spellings, tiny_run, whole_run, tmp_path_factory):
    """mesh -> (tiny run on it, its last state, its records)."""

    @functools.cache
    def train_on(mesh):
        if mesh == ONE:
            return tiny_run, whole_run[1], records(whole_run[0])
        run = make_tiny_run(spellings, {"mesh.data": mesh[0], "mesh.model": mesh[1]})
        folder = tmp_path_factory.mktemp("mesh")
        state = train(run, folder, save_every=STEPS)
        return run, state, records(folder)

    return train_on


def arrays_by_name(tree):
    """`block/name` -> array, for every array of a tree."""
    names = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = [str(getattr(k, "key", getattr(k, "name", k))) for k in path]
        names["/".join(keys).removesuffix("/value")] = leaf
    return names


@pytest.mark.parametrize("mesh", MANY)
def test_losses_equal_those_of_one_device(train_on, mesh):
    one, many = train_on(ONE)[2], train_on(mesh)[2]
    trained = ("loss", "bc", "objective", "gradient_norm", "value/mean", "td/rms")
    sampled = ("policy/length", "policy/reward_mean", "replay/age")
    assert [record.keys() for record in many] == [record.keys() for record in one]
    for name in (*trained, *sampled):
        here, there = ([r[name] for r in records if name in r] for records in (one, many))
        assert len(here) >= STEPS - CLONING
        np.testing.assert_allclose(there, here, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("mesh", MANY)
def test_samples_equal_those_of_one_device(train_on, mesh):
    one, many = (jax.device_get(train_on(m)[1].replay) for m in (ONE, mesh))
    assert one.added == 7 * 8
    jax.tree.map(np.testing.assert_array_equal, many, one)


@pytest.mark.stress
@pytest.mark.parametrize("mesh", MANY)
@pytest.mark.parametrize("back", [False, True])
def test_a_run_resumes_on_another_number_of_devices(train_on, tmp_path, mesh, back):
    """On the same data, noise and samples: the next 20 losses differ by rounding only."""
    crash_at, uninterrupted = STEPS - 20, train_on(ONE)[2]
    here, there = (train_on(m)[0] for m in ((mesh, ONE) if back else (ONE, mesh)))
    with pytest.raises(Crash):
        data = BatchesWithEvent(here.episodes, crash_at, crash)
        train(here, tmp_path, save_every=crash_at, data=data)
    train(there, tmp_path, save_every=STEPS, resume=True)
    expected, losses = (
        [r["loss"] for r in found if r["kind"] == "train"]
        for found in (uninterrupted, records(tmp_path))
    )
    assert len(losses) == STEPS and (back or losses[:crash_at] == expected[:crash_at])
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.stress
@pytest.mark.parametrize("phase", [0, 1])
def test_each_device_does_its_share_of_the_work(spellings, tiny_run, phase):
    """Samples included: they are drawn from a buffer that is on every device."""

    def flops(run):
        batch = jax.device_put(run.episodes[0], run.plan.batch_sharding)
        lowered = run.plan.phases[phase].step.lower(run.parts.like, batch)
        return lowered.compile().cost_analysis()["flops"]

    # What grows with the parameters alone, such as the optimiser, is done on every device.
    assert flops(make_tiny_run(spellings, {"mesh.data": 4})) < 0.4 * flops(tiny_run)


# The head is split over the vocabulary where that divides (tests/models/test_sharding.py).
SPLIT = {
    "query/kernel": P(None, "model"),
    "key/kernel": P(None, "model"),
    "value/kernel": P(None, "model"),
    "gate/kernel": P(None, "model"),
    "up/kernel": P(None, "model"),
    "out/kernel": P("model", None),
    "down/kernel": P("model", None),
    "head/kernel": P("model", None),
    "embedding/embedding": P(None, "model"),
}


@pytest.mark.parametrize("mesh", MANY)
def test_parameters_and_their_moments_are_split_over_the_model_axis(train_on, mesh):
    _, state, _ = train_on(mesh)
    parameters, found = arrays_by_name(state.params), set()
    for name, array in parameters.items():
        kind = "/".join(name.split("/")[-2:])
        # The layers are stacked along a first axis.
        spec = SPLIT.get(kind, P())
        spec = P(None, *spec) if spec and "blocks" in name else spec
        if kind == "head/kernel" and array.shape[1] % mesh[1] == 0:
            spec = P(None, "model")
        found.add(kind)
        assert array.sharding.spec == spec, name
        cuts = [mesh[1] if axis == "model" else 1 for axis in (*spec, None, None, None)][
            : array.ndim
        ]
        shard = array.addressable_shards[0].data.shape
        assert shard == tuple(n // cut for n, cut in zip(array.shape, cuts, strict=True)), name
    assert set(SPLIT) <= found
    moments = [
        [
            array
            for path, array in arrays_by_name(state.opt_state).items()
            if f"/{moment}/" in f"/{path}"
        ]
        for moment in ("mu", "nu")
    ]
    for arrays in moments:
        shardings = [array.sharding for array in arrays]
        assert shardings == [array.sharding for array in parameters.values()]


def test_batches_are_split_over_the_data_axis(train_on):
    for mesh in (ONE, SMALL):
        run = train_on(mesh)[0]
        batch = jax.device_put(run.episodes[0], run.plan.batch_sharding)
        assert {x.addressable_shards[0].data.shape[0] for x in batch} == {8 // mesh[0]}


def test_a_checkpoint_restores_onto_another_mesh(train_on, tmp_path):
    saved = train_on(ONE)[1]
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(saved, {})
    like = train_on(SMALL)[0].parts.like
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(like).state
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(saved))
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, like)


@pytest.mark.parametrize("data, model", [(9, 1), (1, 16), (3, 3)])
def test_too_few_devices_are_a_one_line_error(data, model):
    assert len(jax.devices()) == 8
    with pytest.raises(ValueError) as raised:
        make_mesh(data, model)
    needed = f"mesh.data={data} x mesh.model={model} needs {data * model} devices, but jax finds 8"
    assert str(raised.value) == needed


def test_no_device_is_a_one_line_error(monkeypatch):
    def find_no_device():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", find_no_device)
    with pytest.raises(ValueError, match="jax finds no device .*'cuda'"):
        make_mesh(1, 1)
