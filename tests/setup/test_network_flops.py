"""The closed forms are the products of the network's own computation, counted one by one."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from sequencematch.core.types import Visibility
from sequencematch.models.config import Lora, TransformerConfig
from sequencematch.models.transformer import Transformer
from sequencematch.setup.network_flops import forward_flops, training_flops
from sequencematch.setup.parameters import split
from tests.setup.configs import valid_config_with

T, S, V = 6, 3, 12
# The scores of chunks are computed again, which is not counted.
SIZES = dict(vocab_size=V, layers=2, d_model=16, heads=4, kv_heads=2, d_ff=24, attention="plain")
NETWORKS = {
    "plain": {},
    "tied, with edits": dict(tied=True, edits=2),
    "GPT-2's": dict(mlp="gelu", positions="learned", context=T, kv_heads=4, norm="layer"),
    "wide heads": dict(head_width=8, edits=1, qk_norm=True, layers=6),
    "adapters": dict(lora=Lora(rank=3, targets="query|down")),
}
named = pytest.mark.parametrize("name", NETWORKS)


def product_flops(jaxpr):
    """FLOPs of all matrix products of a jaxpr; a loop's are those of each of its turns."""
    total = 0
    for eqn in jaxpr.eqns:
        turns = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += turns * sum(map(product_flops, jaxprs_in_params(eqn.params)))
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
    return total


def network_of(name):
    """Sizes, graph and shapes of the parameters of a network."""
    sizes = TransformerConfig(**SIZES | NETWORKS[name])
    make = partial(Transformer, sizes)
    return sizes, *nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0, lora=1))))


def read(graph, params, rest=None):
    """The sum of what a row of T slots and the logits of S states come to."""
    model = nnx.merge(graph, params, *([] if rest is None else [rest]))
    slots = jnp.arange(T)[None]
    hidden = model.hidden(slots, Visibility(slots, slots, jnp.full((1, T), T)))
    return model.logits(hidden[:, :S]).sum()


@named
def test_the_forward_pass_has_these_products(name):
    sizes, graph, params = network_of(name)
    counted = product_flops(jax.make_jaxpr(partial(read, graph))(params).jaxpr)
    assert counted == forward_flops(sizes, T, S)


@named
def test_with_all_parameters_trained_the_backward_pass_has_twice_as_many(name):
    sizes, graph, params = network_of(name)
    counted = product_flops(jax.make_jaxpr(jax.grad(partial(read, graph)))(params).jaxpr)
    assert counted == training_flops(sizes, params, T, S) == 3 * forward_flops(sizes, T, S)


@pytest.mark.parametrize("unfrozen", ["", "head"])
def test_frozen_weights_have_no_gradient_of_their_own(unfrozen):
    sizes, graph, params = network_of("adapters")
    config = valid_config_with({"model.lora_rank": 3, "train.unfrozen": unfrozen})
    trained, frozen = split(config, params)
    take = jax.grad(lambda trained, frozen: read(graph, trained, frozen))
    counted = product_flops(jax.make_jaxpr(take)(trained, frozen).jaxpr)
    assert counted == training_flops(sizes, trained, T, S)
    assert 2 * forward_flops(sizes, T, S) < counted < 3 * forward_flops(sizes, T, S)
