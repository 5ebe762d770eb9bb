"""The closed forms of memory are the sizes of the arrays; what is not there is refused in one line."""

import itertools
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.types import Episode
from sequencematch.models.config import TransformerConfig
from sequencematch.models.sharding import state_shardings
from sequencematch.models.transformer import Transformer
from sequencematch.rollout import sampler
from sequencematch.setup import machine, memory
from sequencematch.setup.build import make_recipe
from sequencematch.setup.defaults import defaults, flat, network_config
from sequencematch.setup.machine import available_bytes, format_bytes, free_bytes, is_out_of_memory
from sequencematch.setup.validate import validate
from sequencematch.train import mesh as meshes
from sequencematch.train import step as steps
from sequencematch.train.methods import METHODS
from sequencematch.train.state import init_network, initial_state

V = 30
SIZES = [
    dict(layers=1, d_model=16, heads=1, kv_heads=1, d_ff=16),
    dict(layers=2, d_model=128, heads=4, kv_heads=2, d_ff=256),
    dict(layers=3, d_model=64, heads=8, kv_heads=8, d_ff=512, dtype="bfloat16"),
    dict(layers=2, d_model=256, heads=4, kv_heads=1, d_ff=64, dtype="bfloat16"),
]
NETWORKS = [TransformerConfig(vocab_size=V, **sizes) for sizes in SIZES]
networks = pytest.mark.parametrize("network", NETWORKS)


def changed(changes):
    config = defaults()
    config.update_from_flattened_dict(changes)
    validate(config)
    return config


def having(network, **changes):
    """A configuration with this network."""
    sizes = {name: getattr(network, name) for name in defaults().model}
    return changed({f"model.{name}": size for name, size in sizes.items()} | changes)


def recipe_of(config, vocab_size=V):
    sizes = network_config(config, vocab_size)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Transformer(sizes, nnx.Rngs(0))))
    decisions = mdp.make(vocab_size, eos=2, pad=0, never=[1], edits={3: 1})
    return sizes, make_recipe(config, graph, decisions)


def first_state(config):
    sizes, recipe = recipe_of(config)
    slots = config.prompt_slots + config.max_actions
    make = partial(initial_state, sizes, recipe, capacity=config.rollout.capacity, slots=slots)
    return recipe, jax.eval_shape(make)


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


# The closed forms against the arrays.


@networks
def test_parameters_are_counted(network):
    _, params = jax.eval_shape(lambda: init_network(network, 0))
    assert network.matrices == sum(x.size for x in jax.tree.leaves(params) if x.ndim == 2)
    assert network.gains == sum(x.size for x in jax.tree.leaves(params) if x.ndim == 1)


@networks
@pytest.mark.parametrize("mesh", [(1, 1), (2, 1), (2, 4), (1, 8)])
def test_what_is_held_is_the_training_state_on_each_device(network, mesh):
    config = having(network, **{"mesh.data": mesh[0], "mesh.model": mesh[1], "train.batch_size": 8})
    _, shapes = first_state(config)
    shardings = state_shardings(meshes.make_mesh(*mesh), shapes)
    local = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(s.shard_shape(x.shape), x.dtype), shapes, shardings
    )
    (parameters, moments, buffer), _, written = memory.estimate_training(config, V)
    assert parameters.size == size(local.params)
    assert moments.size == pytest.approx(size(local.opt_state), abs=32)  # two counters
    assert buffer.size == size(local.replay) - 4  # one counter
    held = parameters.size + moments.size + buffer.size
    assert written == held + held // mesh[0]


def residuals(config, rows):
    """Bytes that the step's backward pass keeps: the step is followed as far as its gradient."""
    recipe, shapes = first_state(config)
    slots = config.prompt_slots + config.max_actions
    flags, grid, row = (
        jax.ShapeDtypeStruct((rows, slots), bool),
        integers(rows, slots),
        integers(rows),
    )

    class Kept(Exception):
        pass

    def value_and_grad(loss, has_aux):
        def differentiate(params):
            raise Kept(size(jax.vjp(loss, params, has_aux=has_aux)[1]))

        return differentiate

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Kept) as kept:
        monkeypatch.setattr(steps.jax, "value_and_grad", value_and_grad)
        name = METHODS[config.method].phases[-1]
        batch = Episode(grid, grid, flags, row, row)
        jax.eval_shape(partial(steps.STEPS[name], recipe), shapes, batch)
    return kept.value.args[0]


def line(sizes):
    """The slope and the intercept of the line through two points {x: y, ...}."""
    (x, y), (further, above) = sizes.items()
    slope = (above - y) / (further - x)
    return slope, y - slope * x


@pytest.mark.parametrize(("network", "slots"), [*((n, 20) for n in NETWORKS), (NETWORKS[0], 500)])
def test_what_the_backward_pass_keeps(network, slots):
    """Of each row within 3 %; and, however few they are, the matrices as they enter products."""
    config = having(network, **{"prompt_slots": slots - 8, "max_actions": 8, "method": "mle"})
    row, fixed = line({n: residuals(config, n) for n in (2, 3)})
    assert memory.activation_bytes(network, 1, slots) == pytest.approx(row, rel=0.03)
    a, embedding = memory.ACTIVATION[network.dtype], V * network.d_model
    assert fixed == pytest.approx(a * (network.matrices - embedding) + 4 * network.gains, rel=0.01)
    assert memory.cast_bytes(network) == (a == 2) * a * network.matrices


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_about_as_much(method):
    """Within a tenth, whatever the loss adds to the values; samples are kept like the data."""
    changes = {"method": method, "model.layers": 1, "rollout.rows": 3}
    configs = {n: changed(changes | {"rollout.batch_size": n}) for n in (2, 3)}
    found = [line({n: residuals(configs[2], n) for n in (2, 3)})[0]]
    if memory.draws_samples(configs[2]):
        found.append(line({n: residuals(config, 3) for n, config in configs.items()})[0])
    network = network_config(configs[2], V)
    assert found == pytest.approx([memory.activation_bytes(network, 1, 46)] * len(found), rel=0.1)


@networks
def test_the_samplers_cache(network):
    rows, prompt, actions = 3, 7, 5
    model = nnx.eval_shape(lambda: Transformer(network, nnx.Rngs(0)))
    graph, params = nnx.split(model)
    generation = jax.eval_shape(
        lambda params, *rest: sampler.begin(nnx.merge(graph, params), *rest, actions),
        params,
        integers(rows, prompt),
        integers(rows),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    expected = size((generation.cache, generation.hidden))
    assert memory.cache_bytes(network, rows, prompt + actions) == expected


def compiled(work, network, *args):
    """Bytes that a compiled function of the parameters works in."""
    graph, params = nnx.split(nnx.eval_shape(lambda: Transformer(network, nnx.Rngs(0))))
    function = jax.jit(lambda params, *rest: work(nnx.merge(graph, params), *rest))
    return function.lower(params, *args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(("rows", "prompt", "d_ff"), [(64, 16, 512), (8, 200, 16)])
def test_sampling_works_in_about_as_much(rows, prompt, d_ff):
    """Within a half, where the feed-forward layer is widest and where attention is."""
    network = TransformerConfig(V, layers=2, d_model=64, heads=4, kv_heads=2, d_ff=d_ff)
    decisions = mdp.make(V, eos=2, pad=0, never=[1], edits={3: 1})
    key = jax.eval_shape(lambda: jax.random.key(0))

    def work(model, *rest):
        return sampler.sample(model, decisions, *rest, max_actions=4)

    found = compiled(work, network, integers(rows, prompt), integers(rows), key)
    assert memory.sampling_bytes(network, rows, prompt, 4) == pytest.approx(found, rel=0.5)


@pytest.mark.parametrize("method", METHODS)
def test_samples_are_reckoned_with_where_they_are_drawn(method):
    graph = nnx.split(nnx.eval_shape(lambda: Transformer(NETWORKS[0], nnx.Rngs(0))))[0]
    decisions = mdp.make(V, eos=2, pad=0, never=[1], edits={3: 1})
    for divergence, weight in itertools.product(DIVERGENCES, (0.0, 0.5)):
        objective = {"objective.divergence": divergence, "objective.policy_weight": weight}
        config = changed({"method": method} | objective)
        drawn = make_recipe(config, graph, decisions).samples > 0
        estimate = memory.estimate_training(config)
        names = [part.name for part in estimate.held + estimate.passing]
        assert memory.draws_samples(config) == drawn
        assert ("the replay buffer" in names) == ("drawing samples" in names) == drawn


# Estimates.


def test_a_part_grows_with_its_keys():
    def parts(changes):
        estimate = memory.estimate_training(changed(changes))
        return estimate.held + estimate.passing

    usual = flat(defaults())
    for number, part in enumerate(parts({})):
        for key in part.keys:
            assert parts({key: 2 * usual[key]})[number].size > part.size, (part.name, key)


def test_more_devices_need_less_each():
    def peak(data, model):
        return memory.estimate_training(changed({"mesh.data": data, "mesh.model": model}), V).peak

    assert peak(8, 2) < peak(4, 2) < peak(2, 2) < peak(1, 2) < peak(1, 1)
    assert peak(1, 8) < peak(1, 4) < peak(1, 2)


def test_the_peak_is_what_is_held_and_the_largest_of_what_passes():
    parts = [memory.Part(name, n, ()) for name, n in zip("abcd", (1, 2, 40, 30), strict=True)]
    estimate = memory.Estimate(tuple(parts[:2]), tuple(parts[2:]), 5)
    assert (estimate.peak, estimate.largest.name) == (48, "c")


def test_a_checkpoint_of_an_accelerators_state_takes_none_of_its_memory(monkeypatch):
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 2**36})
    cpu = memory.estimate_training(changed({}), V)
    monkeypatch.setattr(memory, "devices", lambda: [device])
    assert memory.estimate_training(changed({}), V) == cpu._replace(written=0)


# Refusals.

# Every size that can be absurd -> the part that is named
ABSURD = {
    "model.d_model": (2**20, "parameters|moments|gradients"),
    "model.d_ff": (2**30, "gradients|moments"),
    "prompt_slots": (10**9, "gradients"),
    "max_actions": (10**9, "gradients"),
    "train.batch_size": (10**9, "gradients"),
    "rollout.batch_size": (10**9, "gradients"),
    "rollout.capacity": (2 * 10**9, "replay buffer"),
    "evaluate.rows": (10**9, "answering"),
    "evaluate.max_actions": (10**9, "answering"),
}


@pytest.mark.parametrize("key", ABSURD)
def test_absurd_sizes_are_refused_at_once_with_what_to_lower(key):
    value, part = ABSURD[key]
    config = changed({key: value})
    with pytest.raises(ValueError, match=part) as raised:
        memory.check(config, memory.estimate_training(config))
    message = str(raised.value)
    assert f"; lower config.{key}={value} or " in message and len(message.splitlines()) == 1
    if key.startswith("evaluate."):
        with pytest.raises(ValueError, match=f"config.{key}={value}"):
            memory.check(config, memory.estimate_evaluation(config))


def test_enough_is_enough(monkeypatch):
    config = changed({"mesh.data": 2, "mesh.model": 2})
    estimate = memory.estimate_training(config, V)
    for there in (estimate.peak - 1, estimate.peak):
        monkeypatch.setattr(memory, "available_bytes", {4: there}.get)
        if there < estimate.peak:
            with pytest.raises(ValueError, match="on each device"):
                memory.check(config, estimate)
        else:
            memory.check(config, estimate)


def test_an_accelerator_has_its_own_memory_and_cpus_share_the_machines(monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda: 2**34)
    assert [available_bytes(n) for n in (1, 8)] == [2**34, 2**31]
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 2**36})
    monkeypatch.setattr(machine, "devices", lambda: [device])
    assert [available_bytes(n) for n in (1, 8)] == [2**36, 2**36]


def test_bytes_for_people():
    sizes = {
        0: "0.0 B",
        1023: "1,023.0 B",
        1536: "1.5 KiB",
        2**31: "2.0 GiB",
        2**80: "1,048,576.0 EiB",
    }
    assert {n: format_bytes(n) for n in sizes} == sizes


@pytest.mark.parametrize(
    ("controller", "folder", "names", "total"),
    [
        ("", "", ("max", "current"), ""),
        ("memory", "memory", ("limit_in_bytes", "usage_in_bytes"), "total_"),
    ],
    ids=["version 2", "version 1"],
)
def test_a_container_has_no_more_than_its_limit_nor_than_one_around_it(
    tmp_path, controller, folder, names, total
):
    root, own = tmp_path / "groups", tmp_path / "own"
    inner = root / folder / "slice" / "job"
    inner.mkdir(parents=True)

    def free(group, limit):
        stat = {"anon": 300, f"{total}active_file": 200, f"{total}inactive_file": 400}
        stat = {"active_file": 0, "inactive_file": 0} | stat  # version 1: of the group alone
        (group / f"memory.{names[0]}").write_text(f"{limit}\n")
        (group / f"memory.{names[1]}").write_text("1000\n")
        lines = [f"{name} {size}\n" for name, size in stat.items()]
        (group / "memory.stat").write_text("".join(lines))
        return free_bytes(root, own)

    machine = free_bytes(root, own)  # in no group
    own.write_text(f"9:cpu:/\n4:{controller}:/slice/job\n")
    assert free_bytes(root, own) == pytest.approx(machine, rel=0.2)
    assert free(inner, "max") == pytest.approx(machine, rel=0.2)
    assert free(inner, 5000) == 4600  # what it keeps of files counts as free
    assert free(inner.parent, 9000) == 4600
    assert free(inner.parents[1], 4500) == 4100


def test_all_that_is_restored_is_held_by_whoever_restores():
    config = changed({})
    state = memory.estimate_training(config, V).held
    assert (
        memory.estimate_evaluation(config, V).held
        == memory.estimate_answering(config, V).held
        == state
    )
    assert (
        memory.estimate_evaluation(config, V).written
        == memory.estimate_answering(config, V).written
        == 0
    )
    assert memory.estimate_answering(config, V).peak < memory.estimate_evaluation(config, V).peak


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (MemoryError(), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), False),
        (ValueError("x"), False),
    ],
)
def test_what_memory_is_exhausted_by_is_known(error, out):
    assert is_out_of_memory(error) is out
