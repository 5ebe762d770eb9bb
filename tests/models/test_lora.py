"""Adapters: applied, merged, sharded; and kernels in 4 bits."""

import re
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core.types import Visibility
from sequencematch.models import layers, lora, nf4, transformer
from sequencematch.models.config import LINEARS, Lora, TransformerConfig
from sequencematch.models.sharding import path_name, state_shardings
from sequencematch.models.transformer import Transformer, unrolled_layers
from sequencematch.train.mesh import make_mesh
from tests import oracles
from tests.marks import exhaustive, stress

SIZES = TransformerConfig(
    vocab_size=12, edits=2, layers=2, d_model=64, heads=4, kv_heads=2, d_ff=128
)
SOME = Lora(rank=4, alpha=8.0, targets="attention/(query|value)|down")
CASES = {
    "all": Lora(rank=4, alpha=8.0),
    "some": SOME,
    "4 bits": Lora(rank=4, alpha=8.0, base="nf4"),
}
cases = pytest.mark.parametrize("case", CASES)


@cache
def network(adapters=Lora(), **sizes):
    """A network with these adapters; its B is 0. Tests share it, so they must not change it."""
    config = replace(SIZES, lora=adapters, **sizes)
    return nnx.jit(lambda: Transformer(config, nnx.Rngs(0, lora=1)))()


def trained_network(adapters, **sizes):
    """A network with these adapters; no B is 0."""
    graph, params = nnx.split(network(adapters, **sizes))
    rng = np.random.default_rng(2)

    def fill(path, param):
        normal = jnp.asarray(rng.normal(size=param.shape), jnp.float32)
        return param.replace(normal) if path[-1] == "lora_b" else param

    return nnx.merge(graph, nnx.map_state(fill, params))


def with_params(params, **sizes):
    """The network without adapters that has these parameters."""
    return nnx.merge(nnx.graphdef(network(**sizes)), params)


def by_path(tree):
    """Path -> array."""
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 12, (3, 9)))
# Some slots are popped later.
VISIBILITY = Visibility(
    *(jnp.broadcast_to(jnp.arange(9), (3, 9)),) * 2,
    jnp.asarray(np.random.default_rng(1).integers(4, 10, (3, 9))),
)


@nnx.jit
def all_passes(model):
    """Logits in training, after reading a prompt, and after each of three pushes."""

    def push(cache, depth):
        hidden, cache = model.decode(TOKENS[:, depth], jnp.full(3, depth), cache)
        return cache, model.logits(hidden)

    hidden, cache = model.prefill(TOKENS[:, :5], 9)
    return {
        "training": model.logits(model.hidden(TOKENS, VISIBILITY)),
        "prefill": model.logits(hidden),
        "decode": jax.lax.scan(push, cache, jnp.arange(5, 8))[1],
    }


@pytest.mark.stress
@pytest.mark.parametrize("case", ["all", *map(exhaustive, ["some", "4 bits"])])
def test_merged_equals_applied(case):
    """In training, prefill and decode."""
    model = trained_network(CASES[case])
    merged = with_params(lora.merge(nnx.state(model), CASES[case]))
    applied, plain = all_passes(model), all_passes(merged)
    without = all_passes(network(CASES[case]))
    for name, logits in applied.items():
        np.testing.assert_allclose(logits, plain[name], atol=2e-4, err_msg=name)
        assert abs(logits - without[name]).max() > 0.1, name


@pytest.mark.stress
def test_adapters_that_begin_leave_the_base_bit_equal():
    """The kernels are those of the network without adapters, and B = 0 adds nothing."""
    base = network()
    model = network(CASES["all"])
    plain, with_adapters = all_passes(base), by_path(nnx.state(model))
    merged = by_path(lora.merge(nnx.state(model), CASES["all"]))
    for path, x in by_path(nnx.state(base)).items():
        np.testing.assert_array_equal(with_adapters[path], x)
        np.testing.assert_array_equal(merged[path], x)
    for name, logits in all_passes(model).items():
        np.testing.assert_array_equal(logits, plain[name], err_msg=name)


def test_maps_of_one_input_put_out_what_each_does_alone_by_one_product_with_all_their_a():
    """Also where a map between them has no adapter."""
    query, value, up = (
        lora.LowRankLinear(8, width, lora=Lora(3), rngs=nnx.Rngs(width, lora=width))
        for width in (6, 4, 5)
    )
    rng = np.random.default_rng(0)
    for each in (query, value, up):
        each.lora_b[...] = jnp.asarray(rng.normal(size=each.lora_b.shape), jnp.float32)
    maps = [query, nnx.Linear(8, 7, rngs=nnx.Rngs(0)), value, up]
    x = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
    for found, each in zip(lora.apply_all(maps, x), maps, strict=True):
        np.testing.assert_allclose(found, each(x), rtol=1e-5, atol=1e-5)
    jaxpr = jax.make_jaxpr(lambda x: lora.apply_all(maps, x))(x)
    products = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    # One with all A, one with each B, one with each kernel.
    assert len(products) == 1 + 3 + 4


@cases
def test_adapters_are_where_the_pattern_is_found(case):
    adapters = CASES[case]
    config = replace(SIZES, lora=adapters)
    shapes = nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0, lora=1)))
    paths = by_path(nnx.state(shapes))
    found = {path.removesuffix("/lora_a") for path in paths if path.endswith("lora_a")}
    assert found == {path for path in LINEARS if re.search(adapters.targets, path)}
    in_4_bits = {path.removesuffix("/kernel/qvalue") for path in paths if "qvalue" in path}
    assert in_4_bits == (set(LINEARS) if adapters.base == "nf4" else set())


@pytest.mark.stress
def test_an_adapter_begins_uniform_in_one_over_the_root_of_its_inputs():
    """As in PEFT; the default scale is alpha/r."""
    a = nnx.state(network(Lora(rank=16)))["blocks"]["feed_forward"]["down"]["lora_a"][...]
    assert a.shape == (2, 128, 16) and abs(a).max() <= 128**-0.5
    assert float(jnp.std(a)) == pytest.approx((3 * 128) ** -0.5, rel=0.03)
    assert Lora(rank=64, alpha=16.0).scale == 0.25


@pytest.mark.stress
@pytest.mark.parametrize("base", ["float", "bfloat16", stress("nf4")])
def test_a_model_without_adapters_is_adapted(base):
    """The result has the parameters of a network that was made with adapters."""
    adapters = replace(SOME, base=base)
    made = nnx.state(network(adapters))
    adapted = lora.adapt(nnx.state(network()), lora.adapters_of(made), adapters)
    assert jax.tree.structure(adapted) == jax.tree.structure(made)
    for path, x in by_path(made).items():  # another program may round a scale of 4 bits otherwise
        tolerance = 1e-6 * path.endswith("scale")
        np.testing.assert_allclose(by_path(adapted)[path], x, rtol=tolerance, err_msg=path)
    bare = jax.eval_shape(partial(lora.merge, lora=adapters), made)
    assert jax.tree.structure(bare) == jax.tree.structure(nnx.state(network()))


@pytest.mark.stress
def test_kernels_in_bfloat16_compute_as_the_rounded_ones_do_and_are_exported_unrounded():
    adapters = replace(CASES["all"], base="bfloat16")
    model = trained_network(adapters)
    params = nnx.state(model)
    kernels = [x for path, x in by_path(params).items() if path in {f"{x}/kernel" for x in LINEARS}]
    assert {x.dtype.name for x in kernels} == {"bfloat16"} and len(kernels) == len(LINEARS)
    floats = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    plain = nnx.merge(nnx.graphdef(network(CASES["all"])), floats)
    for name, logits in all_passes(model).items():
        np.testing.assert_allclose(logits, all_passes(plain)[name], rtol=1e-5, atol=1e-5)
    a, b = jnp.full((64, 4), 2.0**-10), jnp.ones((4, 64))
    change = lora.merge_kernel(jnp.ones((64, 64), jnp.bfloat16), (a, b))
    assert float(change[0, 0]) == 1 + 2.0**-8


def test_nothing_to_adapt_is_refused():
    with pytest.raises(ValueError, match=r"lora_targets='gate' .* blocks/attention/out"):
        replace(SIZES, lora=Lora(rank=1, targets="gate"), mlp="gelu")
    with pytest.raises(ValueError, match="multiples of 64, which the model's 96 and 100 are not"):
        replace(SIZES, lora=Lora(base="nf4"), d_ff=100, d_model=96)


@pytest.mark.stress
@pytest.mark.parametrize(
    ("case", "mesh"),
    [
        ("4 bits", (1, 2, 4)),
        exhaustive("4 bits", (2, 1, 2)),
        exhaustive("all", (1, 2, 4)),
        exhaustive("all", (2, 1, 2)),
    ],
)
def test_sharded_equals_unsharded(case, mesh):
    """Adapters and kernels in 4 bits are put together as other parameters are; rows need not divide."""
    model, mesh = trained_network(CASES[case], kv_heads=4), make_mesh(*mesh)
    whole, params = all_passes(model), nnx.state(model)
    shardings = state_shardings(mesh, params)
    for axis in ("fsdp", "model"):
        split = [path for path, s in by_path(shardings).items() if axis in s.spec]
        assert mesh.shape[axis] == 1 or any("lora" in path for path in split)
    config = replace(SIZES, lora=CASES[case], kv_heads=4)
    graph = nnx.graphdef(nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0, lora=1), mesh)))
    placed = jax.device_put(params, shardings)
    for name, logits in all_passes(nnx.merge(graph, placed)).items():
        np.testing.assert_allclose(logits, whole[name], atol=2e-4, err_msg=name)


def test_no_device_gathers_a_kernel_in_4_bits():
    """Neither when it is made nor when it is read: each device makes its own columns."""
    tree = {"query": {"kernel": jnp.ones((256, 512))}}
    mesh = make_mesh(model=8)
    w = jax.device_put(tree, state_shardings(mesh, tree))["query"]["kernel"]
    quantised = jax.jit(nf4.quantize)(w)
    assert quantised.qvalue.sharding == w.sharding and quantised.scale.sharding == w.sharding
    for f, x in ((nf4.quantize, w), (nf4.dequantize, quantised)):
        assert "all-gather" not in jax.jit(f).lower(x).compile().as_text()


@pytest.mark.parametrize("shape", [stress((128, 6)), (2, 64, 5)])
def test_nf4_equals_the_nearest_level_of_64_weights(shape):
    """The levels against the paper's definition, the codes and scales against a loop."""
    w = np.array(jax.random.normal(jax.random.key(3), shape))
    w[..., :64, 0] = 0.0
    quantised = nf4.quantize(jnp.asarray(w))
    codes, scales, floats = oracles.nf4(w)
    np.testing.assert_array_equal(quantised.scale, scales)
    np.testing.assert_array_equal(quantised.qvalue, codes)
    np.testing.assert_allclose(nf4.dequantize(quantised), floats, atol=1e-6)
    # What is a level already stays as it is.
    again = nf4.quantize(nf4.dequantize(quantised))
    np.testing.assert_array_equal(again.qvalue, quantised.qvalue)


def test_nf4_takes_four_and_a_half_bits_and_is_nine_percent_off():
    w = jax.random.normal(jax.random.key(4), (512, 256))
    quantised = nf4.quantize(w)
    assert lora.byte_count(quantised) * 8 == 4.5 * w.size
    assert lora.parameter_count({"kernel": quantised, "bias": jnp.ones(3)}) == w.size + 3
    error = jnp.sqrt(jnp.mean((nf4.dequantize(quantised) - w) ** 2))
    assert float(error) == pytest.approx(0.091, abs=0.002)


def loss(trained, frozen, graph):
    """A loss of the trained parameters."""
    model = nnx.merge(graph, trained, frozen)
    return jnp.mean(model.logits(model.hidden(TOKENS, VISIBILITY)) ** 2)


@pytest.mark.stress
@pytest.mark.exhaustive
@pytest.mark.parametrize("remat", ["none", "full"])
def test_gradients_of_adapters_do_not_depend_on_how_kernels_are_stored(remat):
    """Those over kernels in 4 bits are those over the same kernels in floats."""
    found = {}
    params = nnx.state(trained_network(CASES["4 bits"]))
    floats = lora.merge(params, replace(CASES["4 bits"], alpha=0.0))
    for base, tree in (
        ("nf4", params),
        ("float", lora.adapt(floats, lora.adapters_of(params), SOME)),
    ):
        config = replace(SIZES, lora=replace(CASES["all"], base=base), remat=remat)
        graph = nnx.graphdef(nnx.eval_shape(lambda c=config: Transformer(c, nnx.Rngs(0))))
        adapters, rest = nnx.split_state(tree, lambda p, _: lora.is_found(lora.ADAPTER, p), ...)
        found[base] = by_path(jax.jit(jax.grad(loss), static_argnums=2)(adapters, rest, graph))
    assert found["nf4"].keys() == found["float"].keys() and len(found["nf4"]) == 14
    for path, gradient in found["nf4"].items():
        assert abs(gradient).max() > 1e-4, path
        np.testing.assert_allclose(gradient, found["float"][path], atol=1e-5, err_msg=path)


LAYER = 4 * (
    2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1024
)  # bytes of one layer's kernels in floats


def large_network(layers, remat="full", base="nf4"):
    """Configuration of a network whose kernels take more than all else."""
    sizes = dict(layers=layers, d_model=512, d_ff=1024, remat=remat)
    return replace(SIZES, lora=Lora(rank=4, base=base), **sizes)


def step_memory(config):
    """Bytes of temporary memory of a compiled gradient with respect to the adapters."""
    graph, params = nnx.split(nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0))))
    split = nnx.split_state(params, lambda p, _: lora.is_found(lora.ADAPTER, p), ...)
    step = jax.jit(jax.grad(loss), static_argnums=2).lower(*split, graph).compile()
    return step.memory_analysis().temp_size_in_bytes


@pytest.mark.stress
@pytest.mark.exhaustive
def test_one_layer_of_kernels_exists_in_floats(monkeypatch):
    """Without a loop over layers, and a checkpoint of each product, all of them stay alive."""
    few, many = (step_memory(large_network(layers)) for layers in (4, 8))
    # A layer more takes its kernels in 4 bits once more, an eighth, and gradients of its adapters.
    assert many < 3 * LAYER and many - few < 4 * 0.3 * LAYER
    monkeypatch.setitem(transformer.UNROLL, "nf4", 8)
    assert step_memory(large_network(8, remat="none")) > 7.5 * LAYER


@pytest.mark.stress
@pytest.mark.exhaustive
@pytest.mark.parametrize("layers", [6, 7])
def test_frozen_kernels_are_not_copied_whole(layers, monkeypatch):
    """They are where an iteration of the loop runs layers that do not divide their number."""
    config = large_network(layers, base="float")
    assert step_memory(config) < (unrolled_layers(config) + 0.5) * LAYER < layers * LAYER
    monkeypatch.setattr(transformer, "unrolled_layers", lambda _: 4)
    assert step_memory(config) > layers * LAYER


@pytest.mark.stress
@pytest.mark.exhaustive
def test_a_sampler_makes_the_kernels_of_one_layer_after_another():
    """Neither all before the loop over tokens, nor all before the first layer."""
    graph, params = nnx.split(nnx.eval_shape(lambda: Transformer(large_network(6), nnx.Rngs(0))))

    def sample(params):
        model = nnx.merge(graph, params)
        _, cache = model.prefill(TOKENS[:, :4], 9)

        def push(carry, depth):
            hidden, cache = model.decode(carry[0], jnp.full(3, depth), carry[1])
            return (jnp.argmax(model.logits(hidden), -1), cache), None

        return jax.lax.scan(push, (TOKENS[:, 0], cache), jnp.arange(4, 9))[0][0]

    compiled = jax.jit(sample).lower(params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * LAYER


def test_the_gradient_through_a_kernel_in_4_bits_is_that_through_its_floats():
    """Else nothing before a frozen map would learn."""
    keys = jax.random.split(jax.random.key(0))
    x, w = (jax.random.normal(k, s) for k, s in zip(keys, [(3, 64), (64, 5)], strict=True))
    packed = nf4.quantize(w)

    def slope(product):
        return jax.grad(lambda x: jnp.sum(jnp.sin(product(x))))(x)

    found = slope(lambda x: layers.nf4_dot_general(x, packed))
    expected = slope(lambda x: x @ nf4.dequantize(packed))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
