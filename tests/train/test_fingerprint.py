"""Fingerprints of arrays: those of a plain loop, whatever the devices; every change shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sequencematch.storage.fingerprint import fingerprint, fingerprints
from sequencematch.train import mesh as meshes
from tests import oracles

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool"]


def noise(shape, dtype):
    x = np.random.default_rng(0).integers(0, 2**31, shape, dtype=np.uint32)
    return jnp.asarray(x % 2 if dtype == "bool" else x).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (3, 5), (2, 3, 4)])
def test_it_is_what_a_plain_loop_makes_of_the_bits(shape, dtype):
    x = noise(shape, dtype)
    assert int(fingerprint(x)) == oracles.fingerprint(np.asarray(x))


@pytest.mark.parametrize("spec", [P("data"), P(None, "model"), P("data", "model"), P()])
def test_it_is_the_same_on_any_devices(spec):
    x = noise((8, 16), "float32")
    there = jax.device_put(x, NamedSharding(meshes.make_mesh(4, 2), spec))
    assert int(jax.jit(fingerprint)(there)) == int(fingerprint(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_every_flip_of_a_bit_shows(dtype):
    x = np.asarray(noise((5, 3), dtype))
    bits = jax.jit(fingerprint)
    for i in range(8 * x.nbytes):
        raw = bytearray(x.tobytes())
        raw[i // 8] ^= 1 << i % 8
        other = np.frombuffer(bytes(raw), x.dtype).reshape(x.shape)
        assert int(bits(other)) != int(bits(x))


def test_an_exchange_and_a_shift_show():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    others = [x[::-1], np.roll(x, 1), x.T.reshape(3, 4), np.zeros_like(x)]
    assert len({int(fingerprint(jnp.asarray(y))) for y in [x, *others]}) == 5


def test_zeros_of_either_sign_and_nans_have_their_own():
    values = [0.0, -0.0, np.nan, -np.nan, np.inf, 1e-45]
    assert len({int(fingerprint(jnp.float32(value))) for value in values}) == len(values)


def test_arrays_of_a_tree_are_named_by_their_paths():
    tree = {"a": jnp.ones(3), "b": (jnp.zeros(2, jnp.int32), None)}
    found = fingerprints(tree)
    assert {name: int(x) for name, x in found.items()} == {
        "['a']": int(fingerprint(tree["a"])),
        "['b'][0]": int(fingerprint(tree["b"][0])),
    }
