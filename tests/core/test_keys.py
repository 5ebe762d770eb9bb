"""No two uses of randomness share a key or a host seed."""

from itertools import product

import jax
import numpy as np
import pytest

from sequencematch.core.keys import Purpose, host_seed, random_key

SEEDS, INDICES = (0, 1, 2**31), range(20)


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_keys_differ_by_seed_purpose_and_index():
    keys = [bits(random_key(*each)) for each in product(SEEDS, Purpose, INDICES)]
    assert len(set(keys)) == len(keys)


def test_keys_of_answers_meet_none_of_training():
    """Answers fold their row and decision into one key; steps are folded into the others."""
    answers = random_key(0, Purpose.ANSWERS)
    rows = [jax.random.fold_in(answers, row) for row in range(30)]
    decisions = {bits(jax.random.fold_in(row, time)) for row in rows for time in range(30)}
    training = {
        bits(random_key(0, purpose, step))
        for purpose in Purpose
        if purpose != Purpose.ANSWERS
        for step in range(900)
    }
    assert len(decisions) == 900 and len(training) == 900 * (len(Purpose) - 1)
    assert not decisions & training


def test_a_traced_index_gives_the_same_key():
    step = jax.jit(lambda index: random_key(3, Purpose.NOISE, index))(np.int32(7))
    assert bits(step) == bits(random_key(3, Purpose.NOISE, 7))


def test_host_seeds_differ_and_fit():
    seeds = [host_seed(*each) for each in product(SEEDS, Purpose, INDICES)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(("name", "number"), [("NOISE", 0), ("ANSWERS", 4), ("PROMPTS", 6)])
def test_numbers_of_purposes_are_kept(name, number):
    """They are part of what a run is: another number would change what it draws when resumed."""
    assert Purpose[name] == number
