"""The closed forms equal the sizes of the arrays, and runs that do not fit are refused."""

import itertools
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs import llama_arithmetic
from configs.jsonl import get_config
from sequencematch.cli.workdir import FREE_TO_EVALUATE
from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.types import Episode
from sequencematch.models.config import Lora, TransformerConfig
from sequencematch.models.sharding import state_shardings
from sequencematch.models.transformer import Transformer
from sequencematch.rollout import sampler
from sequencematch.setup import memory, network_bytes
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults, flatten, network_config
from sequencematch.setup.network_bytes import STORED
from sequencematch.setup.parameters import split
from sequencematch.setup.recipe import draws_samples, make_recipe, make_settings
from sequencematch.train import mesh as meshes
from sequencematch.train import step as steps
from sequencematch.train.mesh import make_mesh
from sequencematch.train.methods import METHODS
from sequencematch.train.state import init_parameters, initial_state
from tests.marks import stress
from tests.setup.configs import valid_config_with

V = 30
SIZES = [
    dict(layers=1, d_model=16, heads=1, kv_heads=1, d_ff=16),
    dict(layers=2, d_model=128, heads=4, kv_heads=2, d_ff=256),
    dict(layers=3, d_model=64, heads=8, kv_heads=8, d_ff=512, dtype="bfloat16"),
    dict(layers=2, d_model=256, heads=4, kv_heads=1, d_ff=64, dtype="bfloat16"),
]
NETWORKS = [TransformerConfig(vocab_size=V, attention="plain", **sizes) for sizes in SIZES]
networks = pytest.mark.parametrize("network", NETWORKS)


def config_of(network, **changes):
    """A valid configuration with this network."""
    own = [
        name for name in defaults().model if name not in ("path", "preset") and "lora" not in name
    ]
    sizes = {name: getattr(network, name) for name in own}
    return valid_config_with({f"model.{name}": size for name, size in sizes.items()} | changes)


def network_and_recipe(config):
    """Sizes of the network, and the recipe, for a vocabulary of V ids."""
    sizes = network_config(config, V)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Transformer(sizes, nnx.Rngs(0))))
    decisions = mdp.make(V, eos=2, pad=0, never=[1], edits={3: 1})
    return sizes, make_recipe(config, graph, decisions, make_mesh(1, 1), make_settings(config))


def recipe_and_state(config):
    """The recipe, and the shapes of the first train state."""
    sizes, recipe = network_and_recipe(config)
    slots = config.prompt_slots + config.max_actions
    network = partial(Transformer, sizes)
    params = init_parameters_shape(network)
    begin = partial(initial_state, capacity=config.rollout.capacity, slots=slots)
    return recipe, jax.eval_shape(partial(begin, recipe=recipe), params)


def init_parameters_shape(network):
    """The shapes of the parameters of a new network."""
    return jax.eval_shape(partial(init_parameters, network), 0)


def int_shape(*shape):
    """The shape of an int32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def byte_size(tree):
    """Bytes of all arrays of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@networks
def test_parameter_counts_equal_the_arrays(network):
    params = init_parameters_shape(partial(Transformer, network))
    sizes = {
        jax.tree_util.keystr(k): x.size for k, x in jax.tree_util.tree_leaves_with_path(params)
    }
    gains = sum(size for name, size in sizes.items() if "scale" in name)
    assert (network.matrices, network.vectors) == (sum(sizes.values()) - gains, gains)


@networks
@pytest.mark.parametrize("mesh", [*map(stress, [(1, 1, 1), (2, 1, 1), (1, 8, 1)]), (2, 2, 2)])
def test_permanent_parts_equal_the_shards_of_the_train_state(network, mesh):
    axes = dict(zip(("mesh.data", "mesh.fsdp", "mesh.model"), mesh, strict=True))
    config = config_of(network, **axes, **{"train.batch_size": 8})
    _, shapes = recipe_and_state(config)
    shardings = state_shardings(meshes.make_mesh(*mesh), shapes)
    local = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(s.shard_shape(x.shape), x.dtype), shapes, shardings
    )
    (parameters, moments, buffer), _, checkpoint, _ = memory.estimate_training(config, V)
    assert parameters.size == byte_size(local.params)
    assert moments.size == pytest.approx(byte_size(local.opt_state), abs=32)  # two counters
    assert buffer.size == byte_size(local.replay) - 4  # a counter
    state = parameters.size + moments.size + buffer.size
    assert checkpoint == state + state // mesh[0]


def residual_bytes(config, rows):
    """Bytes that the forward pass stores for the backward pass, from the step's own vjp.

    The step is traced as far as its gradient, where an exception carries the size out.
    """
    recipe, shapes = recipe_and_state(config)
    slots = config.prompt_slots + config.max_actions
    flags, grid, row = (
        jax.ShapeDtypeStruct((rows, slots), bool),
        int_shape(rows, slots),
        int_shape(rows),
    )

    class Residuals(Exception):
        pass

    def value_and_grad(loss, has_aux):
        def differentiate(params):
            raise Residuals(byte_size(jax.vjp(loss, params, has_aux=has_aux)[1]))

        return differentiate

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Residuals) as raised:
        monkeypatch.setattr(steps.jax, "value_and_grad", value_and_grad)
        name = METHODS[config.method].phases[-1]
        batch = Episode(grid, grid, flags, row, row)
        jax.eval_shape(partial(steps.STEPS[name], recipe), shapes, batch)
    return raised.value.args[0]


def fit_line(points):
    """(slope, intercept) of the line through two points {x: y}."""
    (x, y), (x2, y2) = points.items()
    slope = (y2 - y) / (x2 - x)
    return slope, y - slope * x


@pytest.mark.parametrize(
    ("network", "slots"),
    [
        (NETWORKS[1], 20),
        (NETWORKS[2], 20),
        *(stress(NETWORKS[i], 20) for i in (0, 3)),
        stress(NETWORKS[0], 500),
    ],
)
def test_activation_bytes_equal_the_residuals(network, slots):
    """Within 3 % for each row; what does not grow with rows is the matrices as they enter products."""
    config = config_of(network, **{"prompt_slots": slots - 8, "max_actions": 8, "method": "mle"})
    row, fixed = fit_line({n: residual_bytes(config, n) for n in (2, 3)})
    assert memory.activation_bytes(network, 1, slots, states=9) == pytest.approx(row, rel=0.03)
    a, embedding = network_bytes.ACTIVATION[network.dtype], V * network.d_model
    assert fixed == pytest.approx(
        a * (network.matrices - embedding) + 4 * network.vectors, rel=0.01
    )
    assert network_bytes.cast_bytes(network) == (a == 2) * a * network.matrices


@pytest.mark.stress
@pytest.mark.parametrize(
    "changes",
    [
        dict(dtype="bfloat16"),
        dict(mlp="gelu"),
        dict(lora=Lora(4)),
        dict(head_width=24, d_ff=80),
    ],
)
@pytest.mark.parametrize("remat", STORED)
def test_stored_bytes_equal_the_residuals_that_a_layer_adds(remat, changes, monkeypatch):
    sizes = dict(vocab_size=V, d_model=32, heads=4, kv_heads=2, d_ff=48, remat=remat) | changes
    config = valid_config_with({"prompt_slots": 12, "max_actions": 8, "method": "mle"})
    rows = {}
    for layers in (3, 4):
        network = TransformerConfig(**sizes, layers=layers)
        monkeypatch.setitem(globals(), "network_config", lambda *_, n=network: n)
        rows[layers], _ = fit_line({n: residual_bytes(config, n) for n in (2, 3)})
    assert rows[4] - rows[3] == 20 * STORED[remat](network)


@pytest.mark.stress
def test_of_chunked_attention_a_layer_stores_no_scores(monkeypatch):
    """Within 3 %; with those of plain attention it would store four times as much."""
    config = valid_config_with({"prompt_slots": 292, "max_actions": 8, "method": "mle"})
    estimated, rows = {}, {}
    for layers in (3, 4):
        sizes = dict(vocab_size=V, d_model=32, heads=4, kv_heads=2, d_ff=48, layers=layers)
        network = TransformerConfig(**sizes, attention="chunked")
        monkeypatch.setitem(globals(), "network_config", lambda *_, n=network: n)
        rows[layers], _ = fit_line({n: residual_bytes(config, n) for n in (2, 3)})
        estimated[layers] = network_bytes.activation_bytes(network, 1, 300)
    assert estimated[4] - estimated[3] == pytest.approx(rows[4] - rows[3], rel=0.03)
    assert network_bytes.activation_bytes(replace(network, attention="plain"), 1, 300) > 3 * rows[4]


FAMILIES = {
    "qwen3": dict(head_width=16, qk_norm=True, dtype="bfloat16"),
    "gemma": dict(head_width=16, norm="rms_plus_one", mlp="geglu", tied=True),
    "gpt2": dict(norm="layer", mlp="gelu", mlp_bias=True, tied=True, kv_heads=4),
}


@pytest.mark.stress
@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_activation_bytes_of_families(changes, monkeypatch):
    """Within 4 %, with heads of another width than D/H, norms of queries and keys, other halves.

    From jax 0.12 on a GELU stores an array less, so there the estimate of GPT-2 is 7 % above.
    """
    sizes = dict(vocab_size=V, layers=3, d_model=32, heads=4, kv_heads=2, d_ff=48) | changes
    network = TransformerConfig(**sizes, attention="plain")
    monkeypatch.setitem(globals(), "network_config", lambda *_: network)
    config = valid_config_with({"prompt_slots": 12, "max_actions": 8, "method": "mle"})
    row, _ = fit_line({n: residual_bytes(config, n) for n in (2, 3)})
    is_less = network.mlp == "gelu" and jax.__version_info__ >= (0, 12)
    above = 0.07 if is_less else 0.04
    assert 0.96 * row < memory.activation_bytes(network, 1, 20) < (1 + above) * row


SOME = [name if name == "mle" else stress(name) for name in METHODS]


@pytest.mark.stress
@pytest.mark.parametrize("method", SOME)
def test_every_method_stores_about_as_much(method):
    """Within 10 %, whatever the loss adds to the values. Samples cost as much as data."""
    changes = {"method": method, "model.layers": 1, "rollout.rows": 3}
    changes["model.attention"] = "plain"  # chunks are not stored
    configs = {n: valid_config_with(changes | {"rollout.batch_size": n}) for n in (2, 3)}
    found = [fit_line({n: residual_bytes(configs[2], n) for n in (2, 3)})[0]]
    if draws_samples(configs[2]):
        found.append(fit_line({n: residual_bytes(config, 3) for n, config in configs.items()})[0])
    network = network_config(configs[2], V)
    assert found == pytest.approx([memory.activation_bytes(network, 1, 46)] * len(found), rel=0.1)


@networks
def test_cache_bytes_equal_the_samplers_cache(network):
    rows, prompt, actions = 3, 7, 5
    how = sampler.Sampling(actions)
    model = nnx.eval_shape(lambda: Transformer(network, nnx.Rngs(0)))
    graph, params = nnx.split(model)
    generation = jax.eval_shape(
        lambda params, *rest: sampler.begin(nnx.merge(graph, params), *rest, how),
        params,
        int_shape(rows, prompt),
        int_shape(rows),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    expected = byte_size((generation.cache, generation.hidden))
    assert network_bytes.cache_bytes(network, rows, prompt + actions) == expected


def temporary_bytes(work, network, *args):
    """Bytes of temporary memory of a compiled function of the parameters."""
    graph, params = nnx.split(nnx.eval_shape(lambda: Transformer(network, nnx.Rngs(0))))
    function = jax.jit(lambda params, *rest: work(nnx.merge(graph, params), *rest))
    return function.lower(params, *args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.stress
@pytest.mark.parametrize(("rows", "prompt", "d_ff"), [(64, 16, 512), (8, 200, 16)])
def test_sampling_bytes_are_close_to_the_compilers(rows, prompt, d_ff):
    """Within 50 %, both where the feed-forward layer is widest and where attention is."""
    network = TransformerConfig(V, layers=2, d_model=64, heads=4, kv_heads=2, d_ff=d_ff)
    decisions = mdp.make(V, eos=2, pad=0, never=[1], edits={3: 1})
    key = jax.eval_shape(lambda: jax.random.key(0))

    def work(model, *rest):
        final = sampler.sample(model, decisions, *rest, sampler.Sampling(4))
        return sampler.episodes(decisions, final), final.log_probs

    found = temporary_bytes(work, network, int_shape(rows, prompt), int_shape(rows), key)
    assert memory.sampling_bytes(network, rows, prompt, 4) == pytest.approx(found, rel=0.5)


@pytest.mark.parametrize(
    "method", [name if name == "sequencematch" else stress(name) for name in METHODS]
)
def test_samples_count_only_where_a_method_draws_them(method):
    graph = nnx.split(nnx.eval_shape(lambda: Transformer(NETWORKS[0], nnx.Rngs(0))))[0]
    decisions = mdp.make(V, eos=2, pad=0, never=[1], edits={3: 1})
    for divergence, weight in itertools.product(DIVERGENCES, (0.0, 0.5)):
        objective = {"objective.divergence": divergence, "objective.policy_weight": weight}
        config = valid_config_with({"method": method} | objective)
        has_samples = (
            make_recipe(config, graph, decisions, make_mesh(1, 1), make_settings(config)).samples
            > 0
        )
        estimate = memory.estimate_training(config)
        names = [part.name for part in estimate.permanent + estimate.temporary]
        assert draws_samples(config) == has_samples
        assert ("the replay buffer" in names) == ("drawing samples" in names) == has_samples


def test_each_part_grows_with_its_keys():
    def parts(changes):
        estimate = memory.estimate_training(valid_config_with(changes))
        return estimate.permanent + estimate.temporary

    default = flatten(defaults())
    for number, part in enumerate(parts({})):
        for key in part.keys:
            assert parts({key: 2 * default[key]})[number].size > part.size, (part.name, key)


def test_peak_falls_with_more_devices():
    def peak(data, fsdp, model):
        axes = {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.model": model}
        return memory.estimate_training(valid_config_with(axes), V).peak

    assert peak(8, 1, 2) < peak(4, 1, 2) < peak(2, 1, 2) < peak(1, 1, 2) < peak(1, 1, 1)
    assert peak(1, 1, 8) < peak(1, 1, 4) < peak(1, 1, 2)
    assert peak(1, 8, 1) < peak(1, 4, 1) < peak(1, 2, 1) < peak(1, 1, 1)
    assert peak(1, 8, 1) < peak(8, 1, 1)


@networks
def test_gathered_bytes_are_those_of_one_layer_and_the_ends(network):
    """A layer in the activations' dtype, however many there are but in sampling; none without fsdp."""

    def bytes_on(axes, **how):
        return memory.gathered_bytes(config_of(network, **axes), network, **how)

    a, both = network_bytes.ACTIVATION[network.dtype], {"mesh.fsdp": 4, "mesh.model": 2}
    layer, ends = a * network.block_matrices, 4 * 2 * V * network.d_model
    assert bytes_on({"mesh.model": 2}) == 0
    assert bytes_on({"mesh.fsdp": 2}) == layer + ends
    assert bytes_on(both) == (layer + ends) / 2
    assert bytes_on(both, copies=2) == layer + ends
    assert bytes_on({"mesh.fsdp": 2}, sampling=True) == network.layers * layer + ends


def test_of_a_model_in_4_bits_a_layer_is_gathered_in_4_bits():
    config = valid_config_with(LORA | {"mesh.fsdp": 2})
    network = network_config(config, V)
    adapters = sum(
        x.size // 2
        for path, x in jax.tree_util.tree_leaves_with_path(memory.shapes_of(network))
        if "lora" in jax.tree_util.keystr(path)
    )
    ends, found = 4 * 2 * V * network.d_model, memory.gathered_bytes(config, network, 1)
    assert found < ends + 4 * adapters + network.block_matrices * (1 / 2 + 4 / 64) + 1


def test_peak_is_all_permanent_parts_the_largest_temporary_one_and_the_checkpoint():
    parts = [memory.Part(name, n, ()) for name, n in zip("abcd", (1, 2, 40, 30), strict=True)]
    estimate = memory.Estimate(tuple(parts[:2]), tuple(parts[2:]), 5)
    assert (estimate.peak, estimate.largest().name) == (48, "c")


def test_checkpoint_and_examples_take_no_memory_of_an_accelerator(monkeypatch):
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 2**36})
    cpu = memory.estimate_training(valid_config_with({}), V, 2**20)
    monkeypatch.setattr(memory, "devices_here", lambda: [device])
    accelerator = memory.estimate_training(valid_config_with({}), V, 2**20)
    assert accelerator == cpu._replace(checkpoint=0, examples=0)


ESTIMATES = [memory.estimate_training, memory.estimate_evaluation, memory.estimate_answering]


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_examples_count_in_the_peak_and_need_not_be_free(estimate, monkeypatch):
    """They are in memory already when what is free is measured."""
    config = valid_config_with({"mesh.data": 2, "mesh.model": 2})
    without, found = estimate(config, V), estimate(config, V, 2**30)
    assert found.peak == without.peak + 2**28  # the devices share what the machine has
    monkeypatch.setattr(memory, "available_bytes", {4: without.peak}.get)
    memory.check(config, found)
    monkeypatch.setattr(memory, "available_bytes", {4: without.peak - 1}.get)
    with pytest.raises(ValueError, match="on each device"):
        memory.check(config, found)


# key -> (an absurd size, the part that the message names)
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


@pytest.mark.parametrize(
    ("preset", "part", "advice"),
    [
        ("llama2-7b", "moments", "train adapters (config.model.lora_rank)"),
        ("llama2-7b", "gradients", "train adapters (config.model.lora_rank)"),  # not activations
        ("gpt2", "gradients", "lower config.train.batch_size=64 or"),
    ],
)
def test_a_model_with_sizes_of_its_own_is_not_to_be_made_smaller_by_keys(preset, part, advice):
    config = valid_config_with({"model.preset": preset})
    estimate = memory.estimate_training(config)
    (found,) = (x for x in estimate.permanent + estimate.temporary if part in x.name)
    assert advice in memory.remedy(config, found.keys)
    assert not any(key in memory.remedy(config, found.keys) for key in memory.NETWORK)


def test_of_a_trained_run_only_what_may_be_changed_is_named():
    """Its sizes are what they are, whatever takes the most."""
    for changes in ({}, {"model.preset": "gpt2"}):
        config = valid_config_with(changes)
        estimate = memory.estimate_evaluation(config)
        (answering,) = estimate.temporary
        advice = memory.remedy(config, answering.keys, FREE_TO_EVALUATE)
        assert advice.startswith("lower config.evaluate.") and "prompt_slots" not in advice
        assert {
            memory.remedy(config, part.keys, FREE_TO_EVALUATE) for part in estimate.permanent
        } == {"take a machine with more memory or raise config.mesh.fsdp=1"}


@pytest.mark.parametrize("key", ABSURD)
def test_absurd_size_is_refused_with_the_key_to_lower(key):
    value, part = ABSURD[key]
    config = valid_config_with({key: value})
    with pytest.raises(ValueError, match=part) as raised:
        memory.check(config, memory.estimate_training(config))
    message = str(raised.value)
    assert f"; lower config.{key}={value} or " in message and len(message.splitlines()) == 1
    if key.startswith("evaluate."):
        with pytest.raises(ValueError, match=f"config.{key}={value}"):
            memory.check(config, memory.estimate_evaluation(config))


def test_an_answer_that_stops_at_a_length_takes_as_much_as_one_that_can_be_no_longer():
    parts = []
    for stop_at, most in ((8, 1_000), (0, 8), (0, 1_000)):
        config = valid_config_with({"evaluate.stop_at": stop_at, "evaluate.max_actions": most})
        parts += memory.estimate_answering(config, V).temporary
    stopped, short, long = parts
    assert stopped.size == short.size < long.size
    assert ["evaluate.stop_at" in part.keys for part in parts] == [True, False, False]
    assert "config.evaluate.stop_at=8" in memory.remedy(
        valid_config_with({"evaluate.stop_at": 8, "evaluate.max_actions": 1_000}), stopped.keys
    )


@pytest.mark.parametrize(
    ("changes", "advises"),
    [({}, True), ({"data.window": 128}, False), ({"max_actions": 9, "model.d_model": 512}, False)],
)
def test_whole_documents_that_do_not_fit_may_be_cut(changes, advises):
    config = valid_config_with(
        {"task": "text", "data.window": 0, "max_actions": 755_226, "evaluate.max_actions": 1}
        | changes
    )
    advice = memory.remedy(config, memory.estimate_training(config).largest().keys)
    assert ("or cut documents (config.data.window)" in advice) == advises


def test_long_texts_fit_in_chunks_and_a_run_without_is_told_of_them(monkeypatch):
    """Sizes of GSM8K in characters: 47 GiB with plain attention, less than 10 GiB in chunks."""
    monkeypatch.setattr(memory, "available_bytes", lambda _: 10 * 2**30)
    config = get_config()
    config.update(prompt_slots=990, max_actions=1_200)
    config.evaluate.max_actions = 1_350
    memory.check(config, memory.estimate_training(config, V))
    config.model.attention = "plain"
    with pytest.raises(memory.DoesNotFit, match=r"or set config\.model\.attention=chunked$"):
        memory.check(config, memory.estimate_training(config, V))


def test_run_is_allowed_from_exactly_its_peak_on(monkeypatch):
    config = valid_config_with({"mesh.data": 2, "mesh.model": 2})
    estimate = memory.estimate_training(config, V)
    for available in (estimate.peak - 1, estimate.peak):
        monkeypatch.setattr(memory, "available_bytes", {4: available}.get)
        if available < estimate.peak:
            with pytest.raises(ValueError, match="on each device"):
                memory.check(config, estimate)
        else:
            memory.check(config, estimate)


def test_evaluating_and_answering_hold_the_whole_train_state():
    config = valid_config_with({})
    state = memory.estimate_training(config, V).permanent
    assert (
        memory.estimate_evaluation(config, V).permanent
        == memory.estimate_answering(config, V).permanent
        == state
    )
    assert (
        memory.estimate_evaluation(config, V).checkpoint
        == memory.estimate_answering(config, V).checkpoint
        == 0
    )
    assert memory.estimate_answering(config, V).peak < memory.estimate_evaluation(config, V).peak


LORA = {"model.lora_rank": 4, "model.lora_base": "nf4", "model.d_ff": 192}


@pytest.mark.parametrize("mesh", [(1, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("frozen", [LORA, {"train.frozen": "blocks"}])
def test_frozen_parameters_are_counted_apart(frozen, mesh):
    """At their own bytes, without moments, gradients or checkpoints."""
    axes = dict(zip(("mesh.data", "mesh.fsdp", "mesh.model"), mesh, strict=True))
    config = valid_config_with(frozen | axes)
    params = init_parameters_shape(partial(Transformer, network_config(config, V)))
    shardings = state_shardings(meshes.make_mesh(*mesh), params)
    local = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(s.shard_shape(x.shape), x.dtype), params, shardings
    )
    trained, rest = split(config, local)
    estimate = memory.estimate_training(config, V)
    sizes = {part.name: part.size for part in estimate.permanent}
    assert sizes["the parameters"] == byte_size(trained)
    assert sizes["the optimiser's moments"] == 2 * byte_size(trained)
    in_4_bits = sum(x.size for x in jax.tree.leaves(rest) if x.dtype == jnp.uint4)
    assert sizes[memory.FROZEN] == byte_size(rest) - in_4_bits / 2
    assert (in_4_bits > 0) == (frozen is LORA)
    state = sum(sizes.values()) - sizes[memory.FROZEN]
    assert estimate.checkpoint == state + state // mesh[0]


@pytest.mark.parametrize("changes", [{}, {"model.preset": "smollm2-135m"}])
def test_where_edits_alone_are_trained_memory_is_estimated(changes):
    """The first estimate is made for one id, which is no edit."""
    config = valid_config_with(changes | {"train.frozen": "^(?!edits)"})
    assert memory.estimate_training(config).peak > 0


def test_a_model_of_seven_billion_fits_a_small_gpu_in_4_bits(monkeypatch):
    """The paper's QLoRA: its kernels take 3.6 GB in 4 bits, and 26 in the floats that are stored."""
    monkeypatch.setattr(memory, "checkpoint_bytes", lambda *_: 0)  # as on a GPU
    peaks, frozen = {}, {}
    for base in ("float", "nf4"):
        config = llama_arithmetic.get_config("qlora")
        config.model.update(path="", preset="llama2-7b", dtype="bfloat16", lora_base=base)
        check_config(config)
        estimate = memory.estimate_training(config, 32_000)
        peaks[base] = estimate.peak / 2**30
        frozen[base] = {part.name: part.size for part in estimate.permanent}[memory.FROZEN]
    kernels = 32 * 4096 * (4 * 4096 + 3 * 11_008)
    assert frozen["float"] - frozen["nf4"] == pytest.approx(kernels * (4 - 9 / 16), rel=1e-4)
    # A step computes with copies of those in floats, of 2 bytes.
    both = kernels * (4 + 2 - 9 / 16) / 2**30
    assert peaks["float"] - peaks["nf4"] == pytest.approx(both, rel=0.1)
    assert peaks["nf4"] < 24 < peaks["float"]
