"""Sizes of the transformer: what is refused, and how parameters are counted."""

import jax
import pytest
from flax import nnx

from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer

SIZES = dict(vocab_size=8, layers=1, d_model=32, heads=4, kv_heads=2, d_ff=16)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (dict(d_model=30), "model.d_model=30"),
        (dict(d_model=20), "model.d_model=20"),
        (dict(heads=3, d_model=36), "model.heads=3"),
        (dict(kv_heads=3), "model.kv_heads=3"),
        (dict(kv_heads=8), "model.kv_heads=8"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_by_key(changes, key):
    with pytest.raises(ValueError, match=key):
        TransformerConfig(**SIZES | changes)


@pytest.mark.parametrize("changes", [{}, dict(layers=3, kv_heads=1), dict(d_ff=20, vocab_size=11)])
def test_counts_of_parameters_equal_those_of_the_network(changes):
    config = TransformerConfig(**SIZES | changes)
    params = nnx.eval_shape(lambda: nnx.state(Transformer(config, nnx.Rngs(0))))
    leaves = jax.tree.leaves(params)
    assert config.matrices + config.gains == sum(leaf.size for leaf in leaves)
    paths = jax.tree_util.tree_leaves_with_path(params)
    gains = [leaf.size for path, leaf in paths if "scale" in jax.tree_util.keystr(path)]
    assert config.gains == sum(gains)
