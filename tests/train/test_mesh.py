"""A mesh changes where arrays live, not their values."""

import functools
import re
from collections import Counter
from math import prod
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from sequencematch.models import attention
from sequencematch.models.gathering import where_computed
from sequencematch.models.sharding import path_name
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.train.mesh import describe_idle, make_mesh
from sequencematch.train.methods import METHODS
from tests.marks import exhaustive, stress
from tests.programs import collectives
from tests.train.runs import (
    CLONING,
    STEPS,
    BatchesWithEvent,
    Crash,
    TinyRun,
    crash,
    make_tiny_run,
    records,
    train,
)

# (data, fsdp, model)
ONE, CUBE = (1, 1, 1), (2, 2, 2)
LINES = [(8, 1, 1), (1, 8, 1), (1, 1, 8)]
PLANES = [(4, 2, 1), (2, 4, 1), (4, 1, 2), (2, 1, 4), (1, 4, 2), (1, 2, 4)]
SMALLER = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
MANY = [CUBE, *map(exhaustive, [(2, 1, 4), (8, 1, 1), (1, 4, 2)])]
MESHES = [CUBE, *map(exhaustive, [*LINES, *PLANES, *SMALLER])]
# Every method on a mesh with all axes, and one method on every mesh: the axes do not know methods.
CASES = [
    (CUBE, "le_cam"),
    stress(CUBE, "sequencematch"),
    *(exhaustive(CUBE, m) for m in sorted(METHODS) if m not in ("le_cam", "sequencematch")),
]
CASES += [exhaustive(mesh, "sequencematch") for mesh in [*LINES, *PLANES, *SMALLER]]


def axes(mesh, prefix="mesh."):
    """Devices along each axis, by name."""
    return dict(zip((f"{prefix}{axis}" for axis in ("data", "fsdp", "model")), mesh, strict=True))


@pytest.fixture(scope="module")
def train_on(spellings, tiny_run, whole_run, tmp_path_factory):
    """mesh -> (tiny run on it, its last state, its records)."""

    @functools.cache
    def train_on(mesh):
        if mesh == ONE:
            return tiny_run, whole_run[1], records(whole_run[0])
        run = make_tiny_run(spellings, axes(mesh))
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


@pytest.mark.stress
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


@pytest.mark.stress
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


class Compiled(NamedTuple):
    """The last step of a method on a mesh, and the first gradient that it takes."""

    run: TinyRun
    program: jax.stages.Compiled
    loss: float
    gradient: dict[str, np.ndarray]

    @property
    def flops(self):
        """Of each device, where the program has no loop."""
        return self.program.cost_analysis()["flops"]

    @property
    def bytes(self):
        """Of each device: (what the step is given, what it takes meanwhile)."""
        found = self.program.memory_analysis()
        return found.argument_size_in_bytes, found.temp_size_in_bytes


@pytest.fixture(scope="module")
def step_on(spellings):
    """(mesh, configuration keys) -> `Compiled`; one for all tests that ask for it."""

    @functools.cache
    def step_on(mesh, **changes):
        keys = {name.replace("__", "."): value for name, value in changes.items()}
        # As many heads as devices: XLA divides others within heads, and exchanges keys.
        keys |= {"model.heads": 8, "model.kv_heads": 8}
        run = make_tiny_run(spellings, axes(mesh) | keys)
        state, (*_, phase) = run.parts.initial(), run.plan.phases
        batch = run.plan.place(run.episodes[0])
        program = phase.step.lower(run.parts.like, batch).compile()
        if phase.samples:
            state = run.plan.refresh(state, *run.plan.place(run.prompts[0]))
        state, metrics = phase.step(state, batch)
        # Adam's first moment is its share of the first gradient, clipped.
        moments = arrays_by_name(jax.device_get(state.opt_state))
        gradient = {name: x for name, x in moments.items() if "/mu/" in name}
        return Compiled(run, program, float(metrics["loss"]), gradient)

    return step_on


@pytest.mark.parametrize(("mesh", "method"), CASES)
def test_one_steps_loss_and_gradient_are_those_of_one_device(step_on, mesh, method):
    """1e-5 relative, in float32."""
    one, many = (step_on(m, method=method) for m in (ONE, mesh))
    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    assert one.gradient.keys() == many.gradient.keys() and len(one.gradient) >= 12
    for name, expected in one.gradient.items():
        size = abs(expected).max()
        np.testing.assert_allclose(many.gradient[name], expected, atol=1e-5 * size, err_msg=name)


@pytest.mark.parametrize(("mesh", "method"), CASES)
def test_the_work_and_the_memory_of_a_device_fall_with_the_axes(step_on, mesh, method):
    """Samples included: they are drawn from a buffer whose rows are divided."""
    one, many = (step_on(m, method=method) for m in (ONE, mesh))
    devices = prod(mesh)
    # A part of the smallest networks is work on vectors, which `model` does not divide.
    assert many.flops < one.flops * (1.4 / devices + 0.1 * (mesh[2] > 1)), many.flops / one.flops
    (given, meanwhile), (given_one, meanwhile_one) = many.bytes, one.bytes
    state = 1 / (mesh[1] * mesh[2])  # what `data` does not divide
    assert given < given_one * (state + 0.2), given / given_one
    # Rows of width D are whole along `model`. In so narrow a network that counts where it is all.
    most = 1.5 / devices + 0.1 + 0.3 * (mesh[2] == 8)
    assert meanwhile < meanwhile_one * most, meanwhile / meanwhile_one


@pytest.mark.stress
@pytest.mark.parametrize("mesh", MANY)
def test_devices_together_do_the_work_of_one(step_on, mesh):
    """In a network that is wide enough for products to be nearly all of it."""
    sizes = {"model__d_model": 128, "model__d_ff": 512}
    one, many = (step_on(m, method="sequencematch", **sizes) for m in (ONE, mesh))
    assert many.flops * prod(mesh) < one.flops * 1.1


@pytest.mark.stress
@pytest.mark.parametrize("mesh", MESHES)
def test_a_pass_puts_together_each_parameter_twice_and_no_logits(step_on, mesh):
    """Forward and backward, one layer at a time; the ends once a step. The layers are in a loop.

    A step has two passes: of the data and of the samples.
    """
    found = step_on(mesh, model__layers=3)
    V, cuts = found.run.parts.tokenizer.vocab_size, axes(mesh, "")
    everywhere = [
        shape
        for kind in ("all-gather", "all-reduce", "all-to-all", "collective-permute")
        for dtype, shape in collectives(found.program, kind)
        if dtype == "f32"
    ]
    # XLA divides logits unevenly: V is rounded up, to 16 at most, which is D.
    widths = {V, V + -V % mesh[2]} - {16}
    assert [shape for shape in everywhere if widths & set(shape)] == []
    expected = Counter()
    for path, x in jax.tree_util.tree_leaves_with_path(found.run.parts.like.params):
        is_stacked = path_name(path).startswith("blocks/")
        shape = (1, *x.shape[1:]) if is_stacked else x.shape
        used = NamedSharding(x.sharding.mesh, where_computed(path, shape, cuts))
        if used.spec != x.sharding.spec:
            expected[used.shard_shape(shape)] += 4 if is_stacked else 1
    gathered = Counter(s for dtype, s in collectives(found.program, "all-gather") if dtype == "f32")
    # Embedded tokens, of which `model` has divided D.
    rows = tuple(x.shape for x in found.run.episodes[0])[0]
    gathered.pop((rows[0] // (mesh[0] * mesh[1]), rows[1], 16), None)
    assert gathered == expected


NOISED = [{}, *({"noise__kind": kind, "rollout__noise": True} for kind in ("random", "policy"))]


@pytest.mark.stress
@pytest.mark.parametrize("noise", NOISED[1:])
def test_noised_samples_equal_those_of_one_device(step_on, noise):
    found = []
    for mesh in (ONE, CUBE):
        run = step_on(mesh, method="sequencematch", noise__eta=0.3, **noise).run
        state = run.plan.refresh(run.parts.initial(), *run.plan.place(run.prompts[0]))
        found.append(jax.device_get(state.replay.trajectories))
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert (np.roll(found[0].tokens, -1, axis=1) != found[0].actions)[found[0].valid].any()


@pytest.mark.stress
@pytest.mark.parametrize("noise", NOISED)
def test_sampling_is_divided_as_a_step_is(step_on, noise):
    """Its work and its cache, by all axes; logits are not put together."""

    def refresh_on(mesh):
        run = step_on(mesh, method="sequencematch", noise__eta=0.3, **noise).run
        prompts = run.plan.place(run.prompts[0])
        return run, run.plan.refresh.lower(run.parts.like, *prompts).compile()

    (run, one), (_, many) = map(refresh_on, (ONE, CUBE))
    work, memory = (
        [f(program) for program in (one, many)]
        for f in (lambda p: p.cost_analysis()["flops"], lambda p: p.memory_analysis())
    )
    assert work[1] < work[0] * 1.3 / prod(CUBE)
    state = 1 / (CUBE[1] * CUBE[2])  # what `data` does not divide
    assert memory[1].argument_size_in_bytes < memory[0].argument_size_in_bytes * (state + 0.2)
    assert memory[1].temp_size_in_bytes < memory[0].temp_size_in_bytes / 2
    config, slots = run.parts.config, run.parts.slots
    for parts, program in ((1, one), (2, many)):  # along each of rows of data, of fsdp, and heads
        rows, heads = config.rollout.rows // parts**2, config.model.kv_heads // parts
        width = config.model.d_model // config.model.heads
        found = re.findall(r"f32\[(\d+),(\d+),(\d+),(\d+)\]", program.as_text())
        shapes = [tuple(map(int, shape)) for shape in found]
        assert (rows, heads, width, slots) in shapes
        assert max(prod(x) for x in shapes if slots in x) == rows * heads * width * slots
    V = run.parts.tokenizer.vocab_size
    for kind in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        wide = [shape for _, shape in collectives(many, kind) if {V, V + 1} & {*shape[1:]}]
        assert wide == [], kind


@pytest.mark.stress
def test_attention_in_chunks_is_the_same_on_a_mesh_and_exchanges_no_more(step_on, monkeypatch):
    """Its loss is that of plain attention on one device."""
    monkeypatch.setattr(attention, "CHUNK", 3)
    plain, one = (step_on(mesh, method="le_cam", model__attention="plain") for mesh in (CUBE, ONE))
    # Named, so that no step that was compiled with larger chunks is taken for it.
    many = step_on(CUBE, method="le_cam", model__attention="chunked")
    assert many.run.episodes[0].tokens.shape[1] > 2 * attention.CHUNK
    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    for name, expected in one.gradient.items():
        size = abs(expected).max()
        np.testing.assert_allclose(many.gradient[name], expected, atol=1e-5 * size, err_msg=name)
    for kind in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        found, before = (Counter(collectives(step.program, kind)) for step in (many, plain))
        assert found == before, kind


@pytest.mark.stress
@pytest.mark.exhaustive
@pytest.mark.parametrize("mesh", MANY)
def test_parameters_moments_and_the_replay_buffer_are_divided(train_on, mesh):
    _, state, _ = train_on(mesh)
    parameters = arrays_by_name(state.params)
    for name, array in parameters.items():
        whole = array.ndim < 2 or "norm" in name or name == "edits/kernel"
        shards = array.size // array.addressable_shards[0].data.size
        assert shards == (1 if whole else mesh[1] * mesh[2]), name
    for moment in ("mu", "nu"):
        moments = [
            array.sharding
            for path, array in arrays_by_name(state.opt_state).items()
            if f"/{moment}/" in f"/{path}"
        ]
        assert moments == [array.sharding for array in parameters.values()]
    for array in (*state.replay.trajectories, state.replay.born):
        assert array.size // array.addressable_shards[0].data.size == mesh[0] * mesh[1]


@pytest.mark.stress
def test_batches_are_split_over_the_axes_data_and_fsdp(train_on):
    for mesh in (ONE, CUBE):
        run = train_on(mesh)[0]
        batch = jax.device_put(run.episodes[0], run.plan.batch_sharding)
        assert {x.addressable_shards[0].data.shape[0] for x in batch} == {8 // (mesh[0] * mesh[1])}


@pytest.mark.stress
@pytest.mark.exhaustive
def test_a_checkpoint_restores_onto_another_mesh(train_on, tmp_path):
    saved = train_on(ONE)[1]
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(saved, {})
    like = train_on(CUBE)[0].parts.like
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(like).state
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(saved))
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, like)


@pytest.mark.parametrize("sizes", [(9, 1, 1), (1, 1, 16), (3, 1, 3), (2, 3, 2)])
def test_too_few_devices_are_a_one_line_error(sizes):
    if len(jax.devices()) != 8:
        pytest.skip("the simulated ones are 8")
    with pytest.raises(ValueError) as raised:
        make_mesh(*sizes)
    data, fsdp, model = sizes
    asked = f"mesh.data={data} x mesh.fsdp={fsdp} x mesh.model={model}"
    needed = f"{asked} needs {data * fsdp * model} devices, but jax finds 8"
    one = "--config.mesh.data=1 --config.mesh.fsdp=1 --config.mesh.model=1"
    assert str(raised.value) == f"{needed}: name another mesh, such as {one}"


def test_devices_that_a_mesh_leaves_idle_are_told():
    if len(jax.devices()) != 8:
        pytest.skip("the simulated ones are 8")
    assert describe_idle(make_mesh(2, 1, 2)) == (
        "4 of 8 devices stay idle; --config.mesh.data=4 takes them in"
    )
    assert describe_idle(make_mesh(3)) == (
        "5 of 8 devices stay idle; --config.mesh.data=8 takes them in"
    )
    assert describe_idle(make_mesh(1, 3)) == "5 of 8 devices stay idle"
    assert describe_idle(make_mesh(2, 2, 2)) == ""


def test_one_host_of_a_tpu_alone_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ValueError, match="one of 4 hosts of a TPU: start all, with --cluster=tpu"):
        make_mesh()


def test_no_device_is_a_one_line_error(monkeypatch):
    def find_no_device():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", find_no_device)
    with pytest.raises(ValueError, match="jax finds no device .*'cuda'"):
        make_mesh()
