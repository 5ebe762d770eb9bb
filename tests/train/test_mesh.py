"""A mesh changes where numbers live, not what they are."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sequencematch import config as configuration
from sequencematch import validation
from sequencematch.run import build, make_plan, training_data
from sequencematch.train.checkpoint import Checkpoints
from sequencematch.train.mesh import make_mesh
from tests.train import runs

STEPS = 20
TINY = runs.TINY | {
    "model.heads": 4,
    "model.kv_heads": 2,
    "optimizer.learning_rate": 3e-3,
    "train.steps": STEPS,
    "train.bc_steps": 0,
    "rollout.every": 5,
    "rollout.rows": 8,
    "rollout.capacity": 16,
    "rollout.batch_size": 8,
}
ONE = (1, 1)
MANY = [(8, 1), (4, 2), (2, 4)]


@pytest.fixture(scope="module")
def trained(spellings):
    """mesh -> (run, last state, losses and lengths of samples by step), made when asked for."""
    made = {}

    def trained(mesh):
        if mesh not in made:
            changes = {"data.path": spellings, "mesh.data": mesh[0], "mesh.model": mesh[1]}
            made[mesh] = train(TINY | changes)
        return made[mesh]

    return trained


def train(changes):
    config = configuration.defaults()
    config.update_from_flattened_dict(changes)
    validation.validate(config)
    run = build(config)
    plan, (episodes, prompts) = make_plan(run), training_data(run)
    state, seen = run.initial(), []
    for i in range(STEPS):
        if plan.refreshes(i):
            state = plan.refresh(state, *jax.device_put(prompts[i], plan.batch_sharding))
        batch = jax.device_put(episodes[i], plan.batch_sharding)
        state, metrics = plan.phase(i).step(state, batch)
        seen.append(jax.device_get(metrics))
    return run, state, seen


def parts(tree):
    """`block/name` of each array of a tree -> how it is split."""
    names = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = [str(getattr(k, "key", getattr(k, "name", k))) for k in path]
        names["/".join(keys).removesuffix("/value")] = leaf
    return names


@pytest.mark.parametrize("mesh", MANY)
def test_losses_are_those_of_one_device(trained, mesh):
    (_, _, one), (_, _, many) = trained(ONE), trained(mesh)
    learnt = ("loss", "bc", "objective", "gradient_norm", "value/mean", "td/rms")
    sampled = ("policy/length", "policy/reward_mean", "replay/age")
    for name in (*learnt, *sampled):
        expected = [metrics[name] for metrics in one]
        np.testing.assert_allclose([m[name] for m in many], expected, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("mesh", MANY)
def test_the_samples_are_those_of_one_device(trained, mesh):
    one, many = (jax.device_get(trained(m)[1].replay) for m in (ONE, mesh))
    assert one.added == 4 * 8
    jax.tree.map(np.testing.assert_array_equal, many, one)


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


@pytest.mark.parametrize("mesh", [(4, 2), (2, 4)])
def test_parameters_lie_split_over_the_model_axis_and_so_do_their_moments(trained, mesh):
    _, state, _ = trained(mesh)
    parameters, found = parts(state.params), set()
    for name, array in parameters.items():
        kind = "/".join(name.split("/")[-2:])
        spec = SPLIT.get(kind, P())
        found.add(kind)
        assert array.sharding.spec == spec, name
        cuts = [mesh[1] if axis == "model" else 1 for axis in (*spec, None, None)][: array.ndim]
        whole = array.addressable_shards[0].data.shape
        assert whole == tuple(n // cut for n, cut in zip(array.shape, cuts, strict=True)), name
    assert set(SPLIT) <= found
    moments = [
        [array for path, array in parts(state.opt_state).items() if f"/{moment}/" in f"/{path}"]
        for moment in ("mu", "nu")
    ]
    for arrays in moments:
        shardings = [array.sharding for array in arrays]
        assert shardings == [array.sharding for array in parameters.values()]


def test_batches_are_split_over_the_data_axis(trained):
    run, _, _ = trained((4, 2))
    batch = jax.device_put(training_data(run)[0][0], make_plan(run).batch_sharding)
    assert {x.addressable_shards[0].data.shape[0] for x in batch} == {8 // 4}


def test_a_checkpoint_goes_from_one_mesh_to_another(trained, tmp_path):
    saved = trained(ONE)[1]
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(saved, {})
    like = trained((2, 4))[0].like
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(like).state
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(saved))
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, like)


@pytest.mark.parametrize("data, model", [(9, 1), (1, 16), (3, 3)])
def test_too_few_devices_are_said_in_one_line(data, model):
    assert len(jax.devices()) == 8
    with pytest.raises(ValueError) as raised:
        make_mesh(data, model)
    needed = f"mesh.data={data} x mesh.model={model} needs {data * model} devices, here are 8"
    assert str(raised.value) == needed


def test_no_device_is_one_line(monkeypatch):
    def missing():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", missing)
    with pytest.raises(ValueError, match="jax finds no device .*'cuda'"):
        make_mesh(1, 1)
