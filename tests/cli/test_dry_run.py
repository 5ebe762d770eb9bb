"""A dry run traces each remaining step of a plan and computes nothing."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from sequencematch.cli import dry_run
from sequencematch.train.mesh import make_mesh, replicated_sharding
from sequencematch.train.plan import Phase, Plan


def plan_of(*phases):
    """A plan of these phases; each refresh is of 3 prompts."""
    everywhere = replicated_sharding(make_mesh(1, 1))
    return Plan(phases, refresh, 7, 2, 3, 1, 1, 1, 0, everywhere)


@jax.jit
def refresh(state, tokens, start):
    assert tokens.shape == (3, 4) and start.shape == (3,)
    raise InterruptedError("the refresh was traced")


def traced_step(name, traced):
    """A step that notes that it was traced, with shapes and no values."""

    @jax.jit
    def step(state, batch):
        assert isinstance(state @ batch, jax.core.Tracer)
        traced.append(name)
        return state, {}

    return step


PARTS = SimpleNamespace(like=jax.ShapeDtypeStruct((2, 5), jnp.float32))
BATCHES, PROMPTS = [jnp.zeros((5, 1))], [(jnp.zeros((3, 4)), jnp.zeros(3))]


def test_every_step_of_a_nonempty_phase_is_traced():
    traced = []
    plan = plan_of(
        Phase("never", traced_step("never", traced), 0, False, 1),
        Phase("first", traced_step("first", traced), 4, False, 1),
        Phase("second", traced_step("second", traced), 9, False, 2),
    )
    dry_run.trace(PARTS, plan, BATCHES, PROMPTS)
    assert traced == ["first", "second"]


def test_step_with_wrong_shapes_fails():
    plan = plan_of(Phase("first", traced_step("first", []), 4, False, 1))
    with pytest.raises(TypeError, match="dot_general|matmul"):
        dry_run.trace(PARTS, plan, [jnp.zeros((4, 1))], PROMPTS)


def test_refresh_is_traced_where_a_phase_has_samples():
    plan = plan_of(Phase("first", traced_step("first", []), 4, True, 1))
    with pytest.raises(InterruptedError):
        dry_run.trace(PARTS, plan, BATCHES, PROMPTS)


@pytest.mark.parametrize(
    ("first", "left"),
    [
        (0, [("a", 0, 4), ("b", 4, 9)]),
        (3, [("a", 3, 4), ("b", 4, 9)]),
        (4, [("b", 4, 9)]),
        (9, []),
    ],
)
def test_remaining_phases_start_at_the_first_step(first, left):
    plan = plan_of(Phase("a", None, 4, False, 1), Phase("b", None, 9, False, 1))
    assert [(p.name, *span) for p, *span in dry_run.remaining_phases(plan, first)] == left
