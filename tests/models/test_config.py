"""Sizes of the transformer: what is refused, and how parameters are counted."""

import jax
import pytest
from flax import nnx

from sequencematch.models.config import TransformerConfig
from sequencematch.models.sharding import path_name
from sequencematch.models.transformer import Transformer, parameter_shapes

SIZES = dict(vocab_size=8, layers=1, d_model=32, heads=4, kv_heads=2, d_ff=16)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (dict(d_model=30), "model.d_model=30"),
        (dict(d_model=20), "model.d_model=20"),
        (dict(heads=3, d_model=36), "model.heads=3"),
        (dict(kv_heads=3), "model.kv_heads=3"),
        (dict(kv_heads=8), "model.kv_heads=8"),
        (dict(head_width=3), "model.head_width=3 must be even"),
        (dict(mlp="relu"), "model.mlp='relu' must be one of swiglu, geglu, gelu"),
    ],
)
def test_what_a_network_cannot_have_is_refused_by_key(changes, key):
    with pytest.raises(ValueError, match=key):
        TransformerConfig(**SIZES | changes)


GPT2 = dict(norm="layer", mlp="gelu", positions="learned", context=13, kv_heads=4, tied=True)
GPT2 |= dict(qkv_bias=True, out_bias=True, mlp_bias=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(layers=3, kv_heads=1),
        dict(d_ff=20, vocab_size=11, edits=2),
        dict(head_width=6, qk_norm=True, qkv_bias=True, mlp_bias=True),
        dict(head_width=10, norm="rms_plus_one", mlp="geglu", tied=True, context=99),
        GPT2,
    ],
)
def test_counts_of_parameters_equal_those_of_the_network(changes):
    config = TransformerConfig(**SIZES | changes)
    paths = jax.tree_util.tree_leaves_with_path(parameter_shapes(config))
    vectors = [x.size for path, x in paths if {"scale", "bias"} & {*path_name(path).split("/")}]
    assert config.vectors == sum(vectors)
    assert config.matrices == sum(leaf.size for _, leaf in paths) - config.vectors


@pytest.mark.parametrize("changes", [{}, GPT2 | dict(layers=3)])
def test_shapes_are_those_of_the_network(changes):
    """They are found from one layer; the tree is the same too."""
    config = TransformerConfig(**SIZES | changes, param_dtype="bfloat16")
    whole = jax.eval_shape(lambda: nnx.state(Transformer(config, nnx.Rngs(0))))
    found = parameter_shapes(config)
    assert jax.tree.structure(found) == jax.tree.structure(whole)
    for a, b in zip(*map(jax.tree.leaves, (found, whole)), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype == "bfloat16"
