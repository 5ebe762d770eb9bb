"""No two uses of randomness share a key or a host seed."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from sequencematch.core.keys import Purpose, host_seed, random_key

SEEDS, INDICES = (0, 1, 2**31), range(20)


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_keys_differ_by_seed_purpose_and_index():
    keys = [bits(random_key(*each)) for each in product(SEEDS, Purpose, INDICES)]
    assert len(set(keys)) == len(keys)


def test_keys_of_answers_meet_none_of_training():
    """Answers fold their row and decision into one key; steps are folded into the others."""
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    rows = fold(random_key(0, Purpose.ANSWERS), jnp.arange(30))
    decisions = {bits(key) for row in rows for key in fold(row, jnp.arange(30))}
    training = set()
    for purpose in set(Purpose) - {Purpose.ANSWERS}:
        keys = jax.vmap(lambda step, p=purpose: random_key(0, p, step))(jnp.arange(900))
        training |= {*map(tuple, np.asarray(jax.random.key_data(keys)).tolist())}
    assert len(decisions) == 900 and len(training) == 900 * (len(Purpose) - 1)
    assert not decisions & training


def test_a_traced_index_gives_the_same_key():
    step = jax.jit(lambda index: random_key(3, Purpose.NOISE, index))(np.int32(7))
    assert bits(step) == bits(random_key(3, Purpose.NOISE, 7))


def test_host_seeds_differ_and_fit():
    seeds = [host_seed(*each) for each in product(SEEDS, Purpose, INDICES)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_numbers_of_purposes_are_kept():
    """They are part of what a run is: another number would change what it draws when resumed."""
    numbers = {"NOISE": 0, "REPLAY": 1, "ROLLOUT": 2, "INITIALIZATION": 3, "ANSWERS": 4}
    numbers |= {"EPISODES": 5, "PROMPTS": 6, "WRONG_STARTS": 7}
    assert {each.name: each.value for each in Purpose} == numbers
