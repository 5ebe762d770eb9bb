"""Which axis of a parameter is split over the mesh."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from sequencematch.models.sharding import state_shardings
from sequencematch.train.mesh import make_mesh


def spec_of(path, shape, model=4, fsdp=1):
    """The partition of one array, by its path."""
    tree = jax.ShapeDtypeStruct(shape, jnp.float32)
    for name in reversed(path.split("/")):
        tree = {name: tree}
    (sharding,) = jax.tree.leaves(state_shardings(make_mesh(fsdp=fsdp, model=model), tree))
    return sharding.spec


def test_the_head_is_split_over_the_vocabulary():
    assert spec_of("params/head/kernel", (16, 32)) == P(None, "model")
    assert spec_of("opt_state/mu/head/kernel/value", (16, 32)) == P(None, "model")


def test_a_vocabulary_that_does_not_divide_leaves_the_head_split_over_its_width():
    assert spec_of("params/head/kernel", (16, 33)) == P("model", None)


def test_layers_are_split_by_columns_into_a_half_and_by_rows_out_of_it():
    for name in ("query", "key", "value", "gate", "up"):
        assert spec_of(f"params/{name}/kernel", (8, 16)) == P(None, "model"), name
        assert spec_of(f"blocks/{name}/kernel", (3, 8, 16)) == P(None, None, "model"), name
    for name in ("out", "down"):
        assert spec_of(f"params/{name}/kernel", (8, 16)) == P("model", None), name
        assert spec_of(f"blocks/{name}/kernel", (3, 8, 16)) == P(None, "model", None), name
    assert spec_of("norm/scale", (7,)) == spec_of("blocks/norm/scale", (3, 7)) == P()


def test_what_does_not_divide_is_named():
    with pytest.raises(ValueError, match=r"^up/kernel of shape \(8, 18\) does not divide by .*=4$"):
        spec_of("feed_forward/up/kernel", (8, 18))


def test_kernels_in_4_bits_and_adapters_are_split_as_the_kernel():
    """Of an adapter the side that meets the split one; scales that do not divide are whole."""
    columns, rows = P(None, None, "model"), P(None, "model", None)
    for name, split in (("query", columns), ("down", rows)):
        for array, shape in (("qvalue", (3, 256, 512)), ("scale", (3, 4, 512))):
            assert spec_of(f"blocks/{name}/kernel/value/{array}", shape) == split, (name, array)
    assert spec_of("blocks/down/kernel/value/scale", (3, 2, 512)) == P()
    assert spec_of("blocks/query/lora_b", (3, 4, 8)) == columns
    assert spec_of("blocks/down/lora_a", (3, 8, 4)) == rows
    assert (
        spec_of("blocks/query/lora_a", (3, 8, 4)) == spec_of("blocks/down/lora_b", (3, 4, 8)) == P()
    )
    with pytest.raises(ValueError, match="^up/kernel/qvalue of shape"):
        spec_of("up/kernel/qvalue", (8, 18))


def test_fsdp_divides_the_side_that_model_does_not():
    both = dict(model=2, fsdp=2)
    assert spec_of("blocks/query/kernel", (3, 8, 16), **both) == P(None, "fsdp", "model")
    assert spec_of("blocks/down/kernel", (3, 16, 8), **both) == P(None, "model", "fsdp")
    assert spec_of("blocks/query/lora_a", (3, 8, 4), **both) == P(None, "fsdp", None)
    assert spec_of("blocks/down/lora_b", (3, 4, 8), **both) == P(None, None, "fsdp")
    assert spec_of("embedding/embedding", (7, 8), **both) == P(None, ("fsdp", "model"))
    assert spec_of("embedding/embedding", (8, 8), **both) == P("model", "fsdp")


def test_a_parameter_that_no_line_covers_is_named():
    with pytest.raises(ValueError, match="how blocks/attention/gain is divided"):
        spec_of("blocks/attention/gain", (3, 8))
