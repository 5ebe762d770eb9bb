"""SequenceMatch's objective over batches: padding, order, micro-batches, precision, extreme logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core import reductions
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import WEIGHTINGS, expert_objective, sequencematch
from tests import exact, oracles
from tests.core.batches import (
    EXPERT,
    GOALS,
    MDP,
    POLICY,
    SLOTS,
    Batch,
    J,
    bc,
    compile_objective,
    gradient,
    objective_of,
    per_trajectory,
    read,
    two_goals,
)

# Invariances.


@two_goals
def test_padding_changes_neither_value_nor_gradient(goal):
    """The gradient is zero on the added slots."""
    batches = EXPERT, POLICY
    wide = Batch(0, 8, slots=SLOTS + 5), Batch(1, 6, slots=SLOTS + 5, imitate=False)
    for narrow, padded in zip(batches, wide, strict=True):
        np.testing.assert_array_equal(narrow.logits, padded.logits[:, :SLOTS])
    results = [
        gradient(goal)((e.logits, p.logits), e.trajectories, p.trajectories)
        for e, p in (batches, wide)
    ]
    (value, grads), (wide_value, wide_grads) = results
    np.testing.assert_allclose(wide_value, value, rtol=1e-6)
    for narrow, padded in zip(grads, wide_grads, strict=True):
        np.testing.assert_allclose(padded[:, :SLOTS], narrow, rtol=1e-5, atol=1e-7)
        assert not np.asarray(padded[:, SLOTS:]).any()
    np.testing.assert_allclose(bc(*wide[0].arrays), bc(*EXPERT.arrays), rtol=1e-6)


@two_goals
def test_order_of_a_batch_does_not_matter(goal):
    rng = np.random.default_rng(3)
    shuffled = EXPERT.rows(rng.permutation(8)), POLICY.rows(rng.permutation(6))
    np.testing.assert_allclose(
        compile_objective(goal)(*shuffled),
        compile_objective(goal)(EXPERT.arrays, POLICY.arrays),
        rtol=1e-5,
    )
    np.testing.assert_allclose(bc(*shuffled[0]), bc(*EXPERT.arrays), rtol=1e-5)


@two_goals
def test_micro_batches_add_up(goal):
    """The halves of a batch, weighted by their imitated steps, sum to the whole: value and gradient."""
    whole, grads = gradient(goal)(
        (EXPERT.logits, POLICY.logits), EXPERT.trajectories, POLICY.trajectories
    )
    count, value, parts = EXPERT.trajectories.imitate.sum(), 0.0, []
    for half in (0, 1):
        e = EXPERT.rows(slice(4 * half, 4 * half + 4))
        p = POLICY.rows(slice(3 * half, 3 * half + 3))
        share = e[1].imitate.sum() / count
        half_value, half_grads = gradient(goal)((e[0], p[0]), e[1], p[1])
        value += share * half_value
        parts.append(jax.tree.map(lambda g, share=share: share * g, half_grads))
    np.testing.assert_allclose(value, whole, rtol=1e-5)
    joined = jax.tree.map(lambda *halves: np.concatenate(halves), *parts)
    for a, b in zip(joined, grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_number_of_samples_does_not_change_their_weight():
    """The policy's sums are scaled by (expert trajectories)/(policy trajectories)."""
    for goal in GOALS[3:6]:
        twice = jax.tree.map(lambda x: np.concatenate([x, x]), POLICY.arrays)
        np.testing.assert_allclose(
            compile_objective(goal)(EXPERT.arrays, twice),
            compile_objective(goal)(EXPERT.arrays, POLICY.arrays),
            rtol=1e-5,
        )


@pytest.mark.parametrize("bound", [oracles.INFINITE, 4 / 1.8])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_where_the_cost_telescopes_all_of_it_is_on_the_expert(weighting, bound):
    """Then samples do not change the objective of chi2, whatever w is."""
    half = oracles.Goal("chi2", weighting, alpha=9.0, gamma=0.8, w=0.5, bound=bound)
    none = half._replace(w=0.0)
    value = compile_objective(none)(EXPERT.arrays)
    np.testing.assert_allclose(
        value, compile_objective(none)(EXPERT.arrays, POLICY.arrays), rtol=1e-6
    )
    moved = abs(compile_objective(half)(EXPERT.arrays, POLICY.arrays) - value)
    if weighting == "discounted" and bound == oracles.INFINITE:
        assert moved == 0 and compile_objective(half)(EXPERT.arrays) == value
    else:
        assert moved > 1e-3


@pytest.mark.parametrize(
    "changes", [{"divergence": "chi2_mixture"}, {"weighting": "uniform", "w": 0.5}]
)
def test_what_needs_samples_is_not_computed_without(changes):
    goal = oracles.Goal("chi2", "discounted", alpha=0.5, gamma=0.8, w=0.0)._replace(**changes)
    with pytest.raises(ValueError, match=r"^policy=None, but the objective needs samples"):
        compile_objective(goal)(EXPERT.arrays)


@jax.jit
def objective_of_one(logits, trajectory):
    """The expert's part of one trajectory, never batched."""
    states = logits[trajectory.state]
    values = reductions.action_values(states, trajectory.actions, MDP.legal)
    return expert_objective(objective_of(GOALS[1]), values, trajectory)


def test_batch_equals_single_trajectories():
    batched = per_trajectory(expert_objective, GOALS[1], EXPERT.arrays)
    rows = [objective_of_one(*EXPERT.rows(row)) for row in range(8)]
    np.testing.assert_allclose(batched, rows, rtol=1e-6)
    # The batch is their sum, divided once by its number of imitated steps: no mean per trajectory.
    J = compile_objective(GOALS[1]._replace(w=0.0))(EXPERT.arrays)
    summed = per_trajectory(expert_objective, GOALS[1]._replace(w=0.0), EXPERT.arrays).sum()
    np.testing.assert_allclose(J, summed / EXPERT.trajectories.imitate.sum(), rtol=1e-6)


@pytest.mark.stress
@two_goals
def test_compiled_equals_eager(goal):
    np.testing.assert_allclose(
        J(goal, EXPERT.arrays, POLICY.arrays),
        compile_objective(goal)(EXPERT.arrays, POLICY.arrays),
        rtol=1e-5,
    )


# Numerics.


@jax.jit
def curvature(row, alpha, logits, directions, experts, policies):
    """J of any divergence, its gradient, and its Hessian times a direction."""
    goal = objective_of(GOALS[4]._replace(alpha=alpha), exact.traced_divergence(row, 100.0))

    def loss(logits):
        return sequencematch(goal, read(logits[0], experts), read(logits[1], policies)).value

    value, change = jax.jvp(jax.value_and_grad(loss), (logits,), (directions,))
    return *value, change[1]


@pytest.mark.parametrize("alpha", [0.01, 1.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_gradient_and_curvature_are_finite_at_extreme_logits(name, alpha):
    """At logits of +-1e4, and with -inf at ids that are not actions."""
    extreme = [np.sign(b.logits) * np.float32(1e4) for b in (EXPERT, POLICY)]
    directions = tuple(np.tanh(b.logits) for b in (EXPERT, POLICY))
    trajectories = EXPERT.trajectories, POLICY.trajectories
    for logits in (extreme, [np.where(MDP.legal, x, -np.inf).astype(np.float32) for x in extreme]):
        numbers = exact.divergence_index(name), alpha, tuple(logits), directions, *trajectories
        for found in jax.tree.leaves(curvature(*numbers)):
            assert np.isfinite(np.asarray(found)).all()
            assert found.ndim == 0 or not np.asarray(found)[..., ~MDP.legal].any()


@two_goals
def test_error_of_bfloat16_logits_is_bounded_by_their_rounding(goal):
    """J of bfloat16 logits equals J of the same numbers in float32, because sums are float32.

    So the only error is the rounding of the logits, at most 2^-9 of each, times their gradients.
    """
    half = [jnp.asarray(b.logits, jnp.bfloat16) for b in (EXPERT, POLICY)]
    again = [np.asarray(x, np.float32) for x in half]
    trajectories = EXPERT.trajectories, POLICY.trajectories
    value, _ = gradient(goal)(tuple(half), *trajectories)
    same, _ = gradient(goal)(tuple(again), *trajectories)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, same, rtol=1e-6)
    exact_logits = tuple(b.logits for b in (EXPERT, POLICY))
    J, grads = gradient(goal)(exact_logits, *trajectories)
    bound = sum(2**-9 * np.abs(x * g).sum() for x, g in zip(exact_logits, grads, strict=True))
    assert 0 < abs(value - J) < bound < 0.1 * abs(J)


def test_no_imitated_step_divides_by_zero():
    nothing = Batch(4, 4, imitate=False)
    assert bc(*nothing.arrays) == 0
    assert np.isfinite(compile_objective(GOALS[0])(nothing.arrays))
