"""A dry run follows what is left of a plan, phase by phase, and computes nothing."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from sequencematch.cli import dry_run
from sequencematch.train.plan import Phase, Plan


def plan_of(*phases):
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return Plan(phases, refresh, 7, 2, 3, 1, 1, 1, 0, everywhere)


def refresh(state, tokens, start):
    assert tokens.shape == (3, 4) and start.shape == (3,)
    raise InterruptedError("the refresh was followed")


def following(name, seen):
    """A step that notes that it was followed, with shapes and no values."""

    def step(state, batch):
        assert isinstance(state @ batch, jax.core.Tracer)
        seen.append(name)
        return state, {}

    return step


RUN = SimpleNamespace(like=jax.ShapeDtypeStruct((2, 5), jnp.float32))
BATCHES, PROMPTS = [jnp.zeros((5, 1))], [(jnp.zeros((3, 4)), jnp.zeros(3))]


def test_every_step_that_has_a_turn_is_followed():
    seen = []
    plan = plan_of(
        Phase("never", following("never", seen), 0, False, 1),
        Phase("first", following("first", seen), 4, False, 1),
        Phase("second", following("second", seen), 9, False, 2),
    )
    dry_run.trace(RUN, plan, BATCHES, PROMPTS)
    assert seen == ["first", "second"]


def test_a_step_whose_shapes_do_not_fit_fails():
    plan = plan_of(Phase("first", following("first", []), 4, False, 1))
    with pytest.raises(TypeError, match="dot_general|matmul"):
        dry_run.trace(RUN, plan, [jnp.zeros((4, 1))], PROMPTS)


def test_the_refresh_is_followed_where_there_are_samples():
    plan = plan_of(Phase("first", following("first", []), 4, True, 1))
    with pytest.raises(InterruptedError):
        dry_run.trace(RUN, plan, BATCHES, PROMPTS)


@pytest.mark.parametrize(
    ("first", "left"),
    [
        (0, [("a", 0, 4), ("b", 4, 9)]),
        (3, [("a", 3, 4), ("b", 4, 9)]),
        (4, [("b", 4, 9)]),
        (9, []),
    ],
)
def test_what_is_left_of_a_plan(first, left):
    plan = plan_of(Phase("a", None, 4, False, 1), Phase("b", None, 9, False, 1))
    assert [(p.name, *span) for p, *span in dry_run.stretches(plan, first)] == left
