"""Fingerprints equal those of a plain loop, on any devices; every change of an array changes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sequencematch.storage.fingerprint import fingerprint, fingerprints
from sequencematch.train import mesh as meshes
from tests import oracles
from tests.marks import stress

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool", "uint4"]


def random_bits(shape, dtype):
    x = np.random.default_rng(0).integers(0, 2**31, shape, dtype=np.uint32)
    return jnp.asarray(x % 2 if dtype == "bool" else x).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*map(stress, [(), (1,), (7,), (3, 5)]), (0,), (2, 3, 4)])
def test_equals_a_plain_loop_over_the_bits(shape, dtype):
    x = random_bits(shape, dtype)
    assert int(fingerprint(x)) == oracles.fingerprint(np.asarray(x))


@pytest.mark.parametrize("spec", [P("data"), P(None, "model"), P("data", "model"), P()])
def test_does_not_depend_on_the_sharding(spec):
    x = random_bits((8, 16), "float32")
    sharded = jax.device_put(x, NamedSharding(meshes.make_mesh(data=4, model=2), spec))
    assert int(jax.jit(fingerprint)(sharded)) == int(fingerprint(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_every_flipped_bit_changes_it(dtype):
    x = np.asarray(random_bits((5, 3), dtype))
    compiled = jax.jit(fingerprint)
    for i in range(8 * x.nbytes):
        raw = bytearray(x.tobytes())
        raw[i // 8] ^= 1 << i % 8
        other = np.frombuffer(bytes(raw), x.dtype).reshape(x.shape)
        assert int(compiled(other)) != int(compiled(x))


def test_reordering_elements_changes_it():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    others = [x[::-1], np.roll(x, 1), x.T.reshape(3, 4), np.zeros_like(x)]
    assert len({int(fingerprint(jnp.asarray(y))) for y in [x, *others]}) == 5


def test_signed_zeros_nans_and_subnormals_differ():
    values = [0.0, -0.0, np.nan, -np.nan, np.inf, 1e-45]
    assert len({int(fingerprint(jnp.float32(value))) for value in values}) == len(values)


def test_arrays_of_a_tree_are_named_by_path():
    tree = {"a": jnp.ones(3), "b": (jnp.zeros(2, jnp.int32), None)}
    found = fingerprints(tree)
    assert {name: int(x) for name, x in found.items()} == {
        "['a']": int(fingerprint(tree["a"])),
        "['b'][0]": int(fingerprint(tree["b"][0])),
    }
