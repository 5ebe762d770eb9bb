"""A run with adapters: only these and the rows of edits are trained, saved, and have gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.setup.build import make_plan
from sequencematch.setup.defaults import defaults
from sequencematch.setup.parameters import frozen_parameters, split
from tests.marks import exhaustive, stress
from tests.setup.configs import valid_config_with
from tests.train.runs import make_tiny_run
from tests.train.test_frozen import arrays

D, F, RANK = 64, 192, 2
SIZES = {"model.d_model": D, "model.d_ff": F, "prompt_slots": 6}
LORA = SIZES | {"model.lora_rank": RANK, "model.lora_base": "nf4"}


@pytest.fixture(scope="module")
def adapted_run(spellings):
    """A tiny run of QLoRA, with its arrays in place."""
    run = make_tiny_run(spellings, LORA)
    parts = run.parts.with_frozen(run.parts.draw())
    return run._replace(parts=parts, plan=make_plan(parts))


def products(step, state, batch):
    """The shapes, sorted and without ones, of all products of matrices in a compiled step."""
    text = step.lower(state, batch).compile().as_text()
    shapes = re.findall(r"= \w+\[([\d,]+)\]\S* dot\(", text)
    return {tuple(sorted(int(n) for n in shape.split(",") if n != "1")) for shape in shapes}


@pytest.mark.stress
def test_only_adapters_and_edits_are_trained_and_saved(adapted_run):
    state = arrays(adapted_run.parts.initial())
    params = {path for path in state if path.startswith(".params")}
    assert len(params) == 2 * 7 + 1
    assert all("lora_" in path or "['edits']" in path for path in params)
    wrong = [p for p in state if any(x in p for x in ("['kernel'].", "norm", "embedding"))]
    assert all("['edits']['kernel']" in path for path in wrong)


def test_parameters_are_counted(adapted_run):
    parts = adapted_run.parts
    # query and out are D x D, key and value D x D/2; gate and up are D x F, down F x D.
    adapters = RANK * (2 * 2 * D + 2 * 3 * D // 2 + 3 * (D + F))
    kernels, V = 3 * D * D + 3 * D * F, parts.tokenizer.vocab_size
    assert parts.trained_parameters == adapters + D
    others = D * (V - 1) * 2 + 3 * D  # embedding and head, gains
    assert parts.parameters == parts.trained_parameters + kernels + others
    assert parts.parameter_bytes == 4 * (parts.trained_parameters + others) + kernels * 9 // 16


@pytest.mark.stress
def test_gradients_of_frozen_weights_do_not_exist_in_the_compiled_step(adapted_run, spellings):
    """No product has a kernel's shape, in either phase; in a step that trains all, some have."""
    in_floats, whole = (
        make_tiny_run(spellings, sizes) for sizes in (LORA | {"model.lora_base": "float"}, SIZES)
    )
    for run, expected in ((adapted_run, False), (in_floats, False), (whole, True)):
        state, batch = run.parts.initial(), run.episodes[0]
        assert [phase.samples for phase in run.plan.phases] == [False, True]
        for phase in run.plan.phases:
            found = products(phase.step, state, batch)
            assert found and ((D, F) in found) == expected and ((D, D) in found) == expected


@pytest.mark.stress
def test_a_run_trains_adapters_alone(adapted_run):
    parts, batch = adapted_run.parts, adapted_run.episodes[0]
    before, state, losses = arrays(parts.frozen), parts.initial(), []
    first = arrays(state.params)
    for _ in range(4):
        state, metrics = adapted_run.plan.phases[0].step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[3] < losses[2] < losses[0]  # the first step is taken at a learning rate of 0
    for path, value in arrays(parts.frozen).items():
        np.testing.assert_array_equal(value, before[path])
    assert all((value != first[path]).any() for path, value in arrays(state.params).items())


def adapters_after_a_step(spellings, mesh, base):
    """(loss, first moments by path) of one step of adapters none of which is zero, on a mesh."""
    axes = dict(zip(("mesh.data", "mesh.fsdp", "mesh.model"), mesh, strict=True))
    heads = {"model.heads": 8, "model.kv_heads": 8}
    changes = LORA | axes | heads | {"model.lora_base": base, "method": "le_cam"}
    run = make_tiny_run(spellings, changes)
    parts = run.parts.with_frozen(run.parts.draw())
    plan, random = make_plan(parts), np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: random.normal(0, 0.1, x.shape).astype(x.dtype), parts.like.params
    )
    where = jax.tree.map(lambda x: x.sharding, parts.like.params)
    state = parts.begin(jax.device_put(params, where))
    state, metrics = plan.phases[-1].step(state, plan.place(run.episodes[0]))
    moments = {path: x for path, x in arrays(state.opt_state).items() if ".mu" in path}
    return float(metrics["loss"]), moments


@pytest.mark.parametrize(
    ("mesh", "base"),
    [
        stress((2, 2, 2), "nf4"),
        *(exhaustive(m, b) for m, b in [((2, 2, 2), "float"), ((1, 2, 4), "nf4")]),
    ],
)
def test_adapters_on_a_mesh_have_the_gradients_of_one_device(spellings, mesh, base):
    """1e-5 relative, in float32; Adam's first moment is its share of the first gradient."""
    loss, expected = adapters_after_a_step(spellings, (1, 1, 1), base)
    found_loss, found = adapters_after_a_step(spellings, mesh, base)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert found.keys() == expected.keys() and len(found) == 2 * 7 + 1
    for path, gradient in expected.items():
        size = abs(gradient).max()
        assert size > 0, path
        np.testing.assert_allclose(found[path], gradient, atol=1e-5 * size, err_msg=path)


@pytest.mark.stress
def test_parameters_of_a_pretrained_model_take_the_place_of_drawn_ones(adapted_run, spellings):
    """They are what `base` says; kernels become 4 bits, and adapters are drawn."""
    parts = adapted_run.parts
    plain = make_tiny_run(spellings, SIZES).parts
    shapes = [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(parts.base)]
    given = plain.draw()
    assert jax.tree.structure(parts.base) == jax.tree.structure(given)
    assert shapes == [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(given)]
    adapted, drawn = arrays(parts.adapt(given)), arrays(parts.draw())
    assert adapted.keys() == drawn.keys()
    for path, value in drawn.items():  # another program may round a scale of 4 bits otherwise
        tolerance = 1e-6 * path.endswith("scale")
        np.testing.assert_allclose(adapted[path], value, rtol=tolerance, err_msg=path)
    assert parts.adapt(given) is not given and plain.adapt(given) is given


@pytest.mark.stress
@pytest.mark.parametrize(
    ("unfrozen", "frozen", "trained"),
    [
        ("embedding", "", "edits|embedding|lora"),
        ("", "edits|down", "lora"),
        ("norm", "", "edits|lora|norm"),
    ],
)
def test_more_may_be_trained_and_less(spellings, unfrozen, frozen, trained):
    changes = LORA | {"train.unfrozen": unfrozen, "train.frozen": frozen}
    parts = make_tiny_run(spellings, changes).parts
    paths = [str(path) for path, _ in jax.tree_util.tree_leaves_with_path(parts.like.params)]
    assert {next(re.finditer(trained, path)).group() for path in paths} == {*trained.split("|")}
    assert not frozen or not any(re.search(frozen, path) for path in paths)


@pytest.mark.parametrize(
    ("frozen", "unfrozen"),
    [("query", "(?i)NORM"), ("(?P<a>query)", "(?P<a>norm)"), ("(?x)query # none", "(n)(o)rm")],
)
def test_a_pattern_does_not_change_what_another_means(frozen, unfrozen):
    """As it might if they were joined: by flags, by the names of groups, by a comment."""
    changes = {"model.lora_rank": 2, "train.frozen": frozen, "train.unfrozen": unfrozen}
    is_frozen = frozen_parameters(valid_config_with(changes))
    paths = {"blocks/attention/query/lora_a": True, "blocks/attention/key/kernel": True}
    paths |= {"blocks/attention/key/lora_a": False, "blocks/attention_norm/scale": False}
    assert {path: is_frozen(tuple(path.split("/"))) for path in paths} == paths


def test_what_cannot_be_trained_is_refused(spellings):
    with pytest.raises(
        ValueError, match="unfrozen='query' is found in .*query/kernel, which is in nf4"
    ):
        make_tiny_run(spellings, LORA | {"train.unfrozen": "query"})
    with pytest.raises(ValueError, match="frozen='.' leaves no parameter to train"):
        make_tiny_run(spellings, {"train.frozen": "."})
    with pytest.raises(ValueError, match="lora_base='nf4' needs config.model.lora_rank > 0"):
        make_tiny_run(spellings, SIZES | {"model.lora_base": "nf4"})
    with pytest.raises(ValueError, match="unfrozen='head' needs config.model.lora_rank > 0"):
        make_tiny_run(spellings, {"train.unfrozen": "head"})


def test_parameters_of_a_network_of_ones_own_may_be_in_bfloat16():
    params = nnx.State({"w": nnx.Param(jnp.ones(2, jnp.bfloat16))})
    trained, frozen = split(defaults(), params)
    assert len(jax.tree.leaves(trained)) == 1 and not jax.tree.leaves(frozen)


def test_a_network_of_ones_own_holds_floats_alone():
    params = nnx.State({"weights": nnx.Param(jnp.zeros(3)), "count": nnx.Variable(jnp.arange(3))})
    with pytest.raises(ValueError, match="the network's count is of int32 and cannot be trained"):
        split(defaults(), params)
