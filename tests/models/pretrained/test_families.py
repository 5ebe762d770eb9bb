"""Every family: the network is what transformers computes, cached or not, sharded or not."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core.types import Visibility
from sequencematch.models.pretrained import configs, reader
from sequencematch.models.pretrained.families import FAMILIES, Row, layout, leaves_by_path
from sequencematch.models.sharding import state_shardings
from sequencematch.models.transformer import Transformer
from sequencematch.train.mesh import make_mesh
from tests.marks import stress
from tests.models.pretrained import tiny

FIGURES = json.loads(tiny.FILE.read_text())


@nnx.jit
def logits_of(network, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    everything = Visibility(positions, positions, jnp.full(tokens.shape, tokens.shape[1]))
    return network.logits(network.hidden(tokens, everything))


# `make test` holds each family to its figures, and one to the laws of which each costs seconds;
# `make parity` holds all of them to all.
FEW = ("llama, all",)
few = pytest.mark.parametrize(
    "case",
    [name if name in FEW else stress(name) for name in tiny.CASES],
    indirect=True,
)


@pytest.fixture(scope="module", params=tiny.CASES)
def case(request, tmp_path_factory):
    """(name, config.json, its directory, the network, its logits at `tiny.TOKENS`)."""
    config = tiny.CASES[request.param]
    folder = tiny.write(tmp_path_factory.mktemp("model"), config)
    network = tiny.network(config, tiny.read(folder))
    return request.param, config, folder, network, np.asarray(logits_of(network, tiny.TOKENS))


def test_every_family_has_a_case():
    assert {configs.family_of(config) for config in tiny.CASES.values()} == FAMILIES.keys()
    assert FIGURES.keys() == tiny.CASES.keys()


def test_logits_are_those_of_transformers(case):
    name, *_, logits = case
    expected = np.array(FIGURES[name])
    assert np.ptp(expected) > 1  # they tell one network from another
    np.testing.assert_allclose(logits[:, -3:], expected, atol=1e-4)


@few
def test_cached_decoding_equals_the_whole_pass(case):
    *_, network, logits = case
    prompt, row = 5, np.arange(2)
    hidden, cache = nnx.jit(partial(Transformer.prefill, slots=12))(
        network, tiny.TOKENS[:, :prompt]
    )
    np.testing.assert_allclose(network.logits(hidden[:, :prompt]), logits[:, :prompt], atol=1e-4)
    decode = nnx.jit(Transformer.decode)
    for depth in range(prompt, 8):
        pushed = jnp.asarray(tiny.TOKENS[row, depth])
        hidden, cache = decode(network, pushed, jnp.full(2, depth), cache)
        np.testing.assert_allclose(network.logits(hidden), logits[:, depth], atol=1e-4)


@few
def test_sharded_equals_unsharded(case):
    """On 8 devices, read onto their shards."""
    _, config, folder, network, logits = case
    mesh, like = make_mesh(data=2, model=4), tiny.shapes(config)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        like,
        state_shardings(mesh, like),
    )
    params = reader.read_params(reader.open_weights(folder), configs.family_of(config), like)
    whole = jax.tree.leaves(nnx.state(network))
    split = 0
    for a, b, shape in zip(jax.tree.leaves(params), whole, jax.tree.leaves(like), strict=True):
        assert a.sharding.is_equivalent_to(shape.sharding, a.ndim)
        split += not a.sharding.is_fully_replicated
        np.testing.assert_array_equal(a, b)
    assert split >= 6
    found = logits_of(tiny.network(config, params), tiny.TOKENS)
    np.testing.assert_allclose(found, logits, atol=1e-4)


@few
def test_bfloat16_is_near_float32(case):
    """Activations and parameters; logits are float32 all the same."""
    _, config, folder, _, logits = case
    half = dict(dtype="bfloat16", param_dtype="bfloat16")
    like = tiny.shapes(config, **half)
    params = reader.read_params(reader.open_weights(folder), configs.family_of(config), like)
    found = logits_of(tiny.network(config, params, **half), tiny.TOKENS)
    assert found.dtype == jnp.float32
    gap = np.abs(found - logits)
    assert 1e-4 < gap.mean() < 0.05 * logits.std()


@few
def test_edits_change_no_other_logit(case):
    """Bit for bit, though there are more rows in the head."""
    _, config, folder, _, logits = case
    params = tiny.read(folder, tiny.ROWS, edits=2)
    more = logits_of(tiny.network(config, params, tiny.ROWS, 2), tiny.TOKENS)
    np.testing.assert_array_equal(more[..., : tiny.ROWS], logits)
    assert more.shape[-1] == tiny.ROWS + 2


def test_a_parameter_without_a_row_is_named():
    leaves = leaves_by_path(tiny.shapes(tiny.CASES["llama"]))
    with pytest.raises(ValueError, match="the family gpt2 has no blocks/feed_forward/gate/kernel$"):
        layout("gpt2", leaves)


def test_tables_name_each_parameter_once():
    for family in FAMILIES.values():
        paths = [path for row in family.rows for path in row.paths]
        assert len(paths) == len(set(paths)) and all(isinstance(row, Row) for row in family.rows)
