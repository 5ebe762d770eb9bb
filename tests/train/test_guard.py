"""Steps that are not finite change nothing, are counted and named, and stop a run after too many."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sequencematch.setup.build import make_plan
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.train import guard
from sequencematch.train import step as steps
from sequencematch.train.guard import Diverged
from tests.train.runs import CLONING, STEPS, Plain, bits, records, train

# L = beta BC - (1-beta) J: a beta of this size at one step -> the term that is not finite.
INJECTED = {
    "nan": (np.nan, "loss"),
    "inf": (np.inf, "loss"),
    "-inf": (-np.inf, "loss"),
    "overflowing": (1e30, "gradient_norm"),  # the loss is finite, squares of its gradient are not
}
BAD = 7


@pytest.fixture(scope="module")
def injected(parts):
    """(step -> beta for the bad ones, 0.5 at all others; the tiny run with that beta).

    The steps ask for beta while they run, so they are compiled once for all tests.
    """
    bad: dict[int, float] = {}

    def beta(step):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(lambda i: np.float32(bad.get(int(i), 0.5)), shape, step)

    run = parts.run._replace(recipe=parts.run.recipe._replace(beta=beta))
    return bad, parts._replace(run=run, plan=make_plan(run))


@pytest.fixture
def inject(injected):
    """(value, steps, changes to the plan) -> the tiny run with that beta at these steps."""
    bad, parts = injected

    def at(value, *places, **changes):
        bad.update(dict.fromkeys(places, value))
        return parts._replace(plan=parts.plan._replace(**changes))

    yield at
    bad.clear()


def one_step(parts):
    """(state with samples, state after one step of matching, its metrics)."""
    state = parts.plan.refresh(parts.run.initial(), *parts.prompts[0])
    before = jax.device_get(state)
    return before, *parts.plan.phases[1].step(state, parts.episodes[0])


@pytest.mark.parametrize("name", INJECTED)
def test_a_bad_step_changes_nothing_but_the_count(inject, name):
    value, term = INJECTED[name]
    state, after, metrics = one_step(inject(value, 0))
    assert bits(after._replace(step=0, guard=0)) == bits(state._replace(step=0, guard=0))
    assert (int(after.step), int(after.guard.skipped), int(after.guard.in_a_row)) == (1, 1, 1)
    bad = [t for t in guard.TERMS if t in metrics and not np.isfinite(metrics[t])]
    assert bad[0] == term and not bool(guard.is_finite(metrics))


def test_huge_gradients_that_are_finite_are_clipped_and_taken(inject):
    state, after, metrics = one_step(inject(1e10, 0))
    assert float(metrics["gradient_norm"]) > 1e8 and int(after.guard.skipped) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(after)))
    assert bits(after.opt_state) != bits(state.opt_state)


def test_an_update_that_is_not_finite_is_named(parts):
    recipe, state, batch = parts.run.recipe, parts.run.initial(), parts.episodes[0]
    endless = recipe._replace(optimizer=optax.chain(recipe.optimizer, optax.scale(np.inf)))
    state = state._replace(opt_state=endless.optimizer.init(state.params))
    after, metrics = jax.jit(lambda *args: steps.imitation_step(endless, *args))(state, batch)
    assert bits(after.params) == bits(state.params) and int(after.guard.skipped) == 1
    assert np.isfinite(metrics["gradient_norm"]) and not np.isfinite(metrics["update_norm"])


def test_the_count_in_a_row_begins_again_after_a_good_step():
    seen, counts = guard.initial(), []
    for good in (False, False, True, False, True, True):
        seen = guard.count_step(seen, jnp.bool_(good))
        counts.append((int(seen.skipped), int(seen.in_a_row)))
    assert counts == [(1, 1), (2, 2), (2, 0), (3, 1), (3, 0), (3, 0)]


def test_a_run_goes_on_after_a_bad_step_as_if_its_batch_had_not_been(
    parts, inject, tmp_path, capfd
):
    spoilt = inject(np.nan, BAD)
    state = train(spoilt, tmp_path / "bad", save_every=4)
    assert f"step {BAD + 1}: loss, gradient_norm, update_norm not finite: skipped" in (
        capfd.readouterr().out
    )
    sound = inject(0.5, BAD)

    def without(state, batch):  # the step that leaves everything as it is
        after, metrics = sound.plan.phases[1].step(jax.tree.map(jnp.copy, state), batch)
        if int(state.step) == BAD:
            return state._replace(step=state.step + 1), metrics
        return after, metrics

    phases = [sound.plan.phases[0], sound.plan.phases[1]._replace(step=Plain(without))]
    other = train(
        sound._replace(plan=sound.plan._replace(phases=phases)), tmp_path / "left out", save_every=4
    )
    assert bits(state._replace(guard=0)) == bits(other._replace(guard=0))
    found = {r["step"]: r for r in records(tmp_path / "bad") if r["kind"] == "train"}
    assert found[BAD + 1]["loss"] is None and found[BAD + 1]["skipped"] == 1
    assert found[STEPS]["skipped"] == 1 and found[STEPS]["skipped_in_a_row"] == 0
    assert all(r["loss"] is not None for step, r in found.items() if step != BAD + 1)
    # The schedule of the learning rate goes by the steps that were taken.
    assert found[STEPS]["learning_rate"] == pytest.approx(
        float(parts.run.recipe.learning_rate(STEPS - 2))
    )


@pytest.mark.parametrize("limit", [0, 2])
def test_too_many_in_a_row_stop_the_run_and_none_is_saved(parts, inject, tmp_path, limit):
    spoilt = inject(np.inf, *range(BAD, STEPS), skip_nonfinite=limit)
    with pytest.raises(Diverged) as raised:
        train(spoilt, tmp_path, save_every=1)
    message = str(raised.value)
    assert message.startswith(
        f"step {BAD + 1 + limit}: loss, gradient_norm, update_norm not finite"
    )
    assert f"config.train.skip_nonfinite={limit}" in message and len(message.splitlines()) == 1
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(parts.run.like).state
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state)))
    assert int(state.step) - int(state.guard.skipped) == BAD
    assert int(state.guard.in_a_row) <= limit


def test_bad_steps_that_are_not_in_a_row_do_not_stop_it(inject, tmp_path):
    bad = range(CLONING, STEPS, 2)
    spoilt = inject(np.nan, *bad, skip_nonfinite=1)
    assert int(train(spoilt, tmp_path, save_every=STEPS).guard.skipped) == len(bad)


def test_samples_are_never_drawn_from_what_is_not_finite(inject, tmp_path):
    spoilt, seen = inject(np.nan, *range(BAD, STEPS), skip_nonfinite=STEPS), []

    def refresh(state, *prompts):
        seen.append([np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state.params))])
        return spoilt.plan.refresh(state, *prompts)

    plan = spoilt.plan._replace(refresh=Plain(refresh))
    state = train(spoilt._replace(plan=plan), tmp_path, save_every=STEPS)
    assert len(seen) > 3 and np.all(seen) and int(state.guard.skipped) == STEPS - BAD


def test_the_watch_judges_each_step_once_and_one_late():
    said = []
    watch = guard.Watch(5, said.append)
    good = dict(loss=jnp.float32(1.0), skipped=jnp.int32(0), skipped_in_a_row=jnp.int32(0))
    bad = dict(loss=jnp.float32(np.nan), skipped=jnp.int32(1), skipped_in_a_row=jnp.int32(1))
    for step, metrics in ((1, good), (2, bad), (3, good)):
        watch.see(step, metrics)
        assert len(said) == (step > 2)
    watch.settle()
    assert said == ["step 2: loss not finite: skipped (1 in a row, 1 in all)"]


def test_a_step_is_judged_before_it_is_saved(inject, tmp_path):
    spoilt = inject(np.nan, STEPS - 1, skip_nonfinite=0)
    for resume in (False, True):  # else going on would find a run that is done
        with pytest.raises(Diverged, match=f"step {STEPS}: "):
            train(spoilt, tmp_path, save_every=STEPS // 2, resume=resume)
