"""A network computes on a mesh what it computes on one device, and no device has all logits."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core.types import Visibility
from sequencematch.models.config import Lora, TransformerConfig
from sequencematch.models.sharding import state_shardings
from sequencematch.models.transformer import Transformer, with_whole_ends
from sequencematch.train.mesh import batch_sharding, make_mesh
from sequencematch.train.state import split_parameters
from tests.marks import exhaustive
from tests.programs import COLLECTIVES, collectives

ROWS, SLOTS = 4, 24
MESHES = (1, 1, 1), (1, 2, 1)


def residuals(mesh, slots, lora, **changes):
    """(dtype, elements) of each array that a network's backward pass keeps of its forward pass."""
    sizes = dict(layers=3, d_model=64, heads=4, kv_heads=4, d_ff=128, lora=lora)
    config = TransformerConfig(50, **sizes, **changes)
    graph, params = nnx.split(nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0), mesh)))
    trained, frozen = split_parameters(
        lambda path: bool(lora.rank) and path[-1][:5] != "lora_", params
    )
    positions = jnp.broadcast_to(jnp.arange(slots), (ROWS, slots))
    visibility = Visibility(positions, positions, jnp.full((ROWS, slots), slots))

    def pull_back(trained, frozen):
        hidden = lambda p: nnx.merge(graph, p, frozen).hidden(positions % 50, visibility)  # noqa: E731
        return jax.vjp(hidden, trained)[1]

    kept = jax.tree.leaves(jax.eval_shape(pull_back, trained, frozen))
    return Counter((str(x.dtype), x.size) for x in kept)


@pytest.mark.parametrize(
    ("slots", "lora", "changes"),
    [
        (24, Lora(), dict(remat="products")),
        (24, Lora(), dict(remat="full")),
        (24, Lora(4, base="nf4"), dict(remat="products")),
        (24, Lora(4, base="nf4"), dict(remat="full")),
        (400, Lora(), dict(remat="products", attention="chunked")),
    ],
)
def test_devices_that_share_parameters_keep_no_more_for_the_backward_pass(slots, lora, changes):
    """Neither kernels in 4 bits as floats, nor the scores of more than a chunk of queries."""
    one, shared = (residuals(make_mesh(*mesh), slots, lora, **changes) for mesh in MESHES)
    assert one == shared


def test_where_parameters_are_shared_all_is_kept_but_what_products_are_made_into():
    """Else the parameters of all layers would be kept as they were put together."""
    found = [residuals(make_mesh(1, 2, 1), 24, Lora(), remat=name) for name in ("none", "products")]
    assert found[0] == found[1] != residuals(make_mesh(1, 1, 1), 24, Lora(), remat="none")


def compile_gradient(config, mesh):
    """(parameters, tokens) -> (loss, gradient) of the likelihood, its rows and parameters divided."""
    make = lambda: Transformer(config, nnx.Rngs(0), mesh)  # noqa: E731
    graph, shapes = nnx.split(nnx.eval_shape(make))
    shardings = state_shardings(mesh, shapes)
    slots = jnp.broadcast_to(jnp.arange(SLOTS), (ROWS, SLOTS))
    visibility = Visibility(slots, slots, jnp.full((ROWS, SLOTS), SLOTS))

    def loss(params, tokens):
        model = with_whole_ends(nnx.merge(graph, params))
        logits = model.logits(model.hidden(tokens, visibility))
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)
        return -jnp.mean(log_p)

    rows = jax.ShapeDtypeStruct((ROWS, SLOTS), jnp.int32, sharding=batch_sharding(mesh))
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, shardings))
    return step.lower(like, rows).compile(), shardings, rows.sharding


@pytest.mark.parametrize(
    ("ids", "tied", "mesh"),
    [
        (500, True, (1, 2, 2)),
        exhaustive(500, True, (1, 1, 2)),
        exhaustive(499, True, (2, 2, 2)),
        exhaustive(499, True, (1, 1, 2)),
        exhaustive(499, False, (1, 2, 2)),
        exhaustive(500, False, (1, 2, 4)),
    ],
)
def test_each_device_has_the_logits_of_its_ids_and_the_states_of_its_rows_alone(ids, tied, mesh):
    """Also of rows that are embeddings, and of a number of ids that does not divide."""
    more = {"tied": tied} if tied else {"positions": "learned", "context": 32}
    config = TransformerConfig(ids, layers=1, d_model=32, heads=4, kv_heads=4, d_ff=64, **more)
    one, (program, shardings, of_rows) = (
        compile_gradient(config, make_mesh(*sizes)) for sizes in ((1, 1, 1), mesh)
    )
    params = nnx.state(Transformer(config, nnx.Rngs(0)))
    tokens = jnp.asarray(np.random.default_rng(0).integers(ids, size=(ROWS, SLOTS)), jnp.int32)
    expected, gradient = one[0](jax.device_put(params, one[1]), jax.device_put(tokens, one[2]))
    found, divided = program(jax.device_put(params, shardings), jax.device_put(tokens, of_rows))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    for here, there in zip(*map(jax.tree.leaves, (gradient, divided)), strict=True):
        np.testing.assert_allclose(there, here, atol=1e-5 * float(abs(here).max()))
    exchanged = [shape for kind in COLLECTIVES for _, shape in collectives(program, kind)]
    if mesh[0] * mesh[1] > 1:
        assert [shape for shape in exchanged if shape[:2] == (ROWS, SLOTS)] == []  # rows of others
    of_ids = {ids, ids + -ids % mesh[2], -(-ids // mesh[2])}
    states = {SLOTS, *(ROWS * SLOTS // n for n in (1, 2, 4))}
    assert [shape for shape in exchanged if of_ids & {*shape} and states & {*shape}] == []
