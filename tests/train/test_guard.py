"""A step that is not finite changes nothing and is counted; too many in a row stop the run."""

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
from tests.train.runs import CLONING, STEPS, UncompiledStep, bits, records, train

# L = beta BC - (1-beta) J: beta at one step -> the first term that is not finite then.
INJECTED = {
    "nan": (np.nan, "loss"),
    "inf": (np.inf, "loss"),
    "-inf": (-np.inf, "loss"),
    "overflow": (1e30, "gradient_norm"),  # the loss is finite, squares of its gradient are not
}
BAD = 7


@pytest.fixture(scope="module")
def adjustable_beta(tiny_run):
    """(step -> beta, to be changed at will; the tiny run with that beta, 0.5 at all other steps).

    The compiled steps call back for beta, so they are compiled once for all tests.
    """
    betas: dict[int, float] = {}

    def beta(step):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(lambda i: np.float32(betas.get(int(i), 0.5)), shape, step)

    parts = tiny_run.parts._replace(
        make=lambda settings: tiny_run.parts.make(settings)._replace(beta=beta)
    )
    # beta is a part of matching steps only.
    phases = [tiny_run.plan.phases[0], make_plan(parts).phases[1]]
    return betas, tiny_run._replace(parts=parts, plan=tiny_run.plan._replace(phases=phases))


@pytest.fixture
def inject(adjustable_beta):
    """(value, steps, changes to the plan) -> the tiny run with that beta at these steps."""
    betas, run = adjustable_beta

    def inject(value, *steps, **changes):
        betas.update(dict.fromkeys(steps, value))
        return run._replace(plan=run.plan._replace(**changes))

    yield inject
    betas.clear()


def match_once(run):
    """(state with samples, state after one matching step, its metrics)."""
    state = run.plan.refresh(run.parts.initial(), *run.prompts[0])
    before = jax.device_get(state)
    return before, *run.plan.phases[1].step(state, run.episodes[0])


@pytest.mark.stress
@pytest.mark.parametrize("name", INJECTED)
def test_a_bad_step_changes_only_the_counts(inject, name):
    value, term = INJECTED[name]
    state, after, metrics = match_once(inject(value, 0))
    assert bits(after._replace(step=0, guard=0)) == bits(state._replace(step=0, guard=0))
    assert (int(after.step), int(after.guard.skipped), int(after.guard.in_a_row)) == (1, 1, 1)
    bad = [t for t in guard.TERMS if t in metrics and not np.isfinite(metrics[t])]
    assert bad[0] == term and not bool(guard.is_finite(metrics))


@pytest.mark.stress
def test_a_huge_finite_gradient_is_clipped_not_skipped(inject):
    state, after, metrics = match_once(inject(1e10, 0))
    assert float(metrics["gradient_norm"]) > 1e8 and int(after.guard.skipped) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(after)))
    assert bits(after.opt_state) != bits(state.opt_state)


@pytest.mark.stress
def test_an_infinite_update_of_a_finite_gradient_is_skipped(tiny_run):
    recipe, state, batch = tiny_run.parts.recipe, tiny_run.parts.initial(), tiny_run.episodes[0]
    infinite = recipe._replace(optimizer=optax.chain(recipe.optimizer, optax.scale(np.inf)))
    state = state._replace(opt_state=infinite.optimizer.init(state.params))
    after, metrics = jax.jit(lambda *args: steps.imitation_step(infinite, *args))(state, batch)
    assert bits(after.params) == bits(state.params) and int(after.guard.skipped) == 1
    assert np.isfinite(metrics["gradient_norm"]) and not np.isfinite(metrics["update_norm"])


def test_a_good_step_resets_the_count_in_a_row():
    seen, counts = guard.init(), []
    for good in (False, False, True, False, True, True):
        seen = guard.count_step(seen, jnp.bool_(good))
        counts.append((int(seen.skipped), int(seen.in_a_row)))
    assert counts == [(1, 1), (2, 2), (2, 0), (3, 1), (3, 0), (3, 0)]


@pytest.mark.stress
@pytest.mark.exhaustive
def test_a_bad_step_equals_a_run_without_its_batch(tiny_run, inject, tmp_path, capfd):
    bad_run = inject(np.nan, BAD)
    state = train(bad_run, tmp_path / "bad", save_every=4)
    assert f"step {BAD + 1}: loss, gradient_norm, update_norm not finite: skipped" in (
        capfd.readouterr().out
    )
    good_run = inject(0.5, BAD)
    cloning, matching = good_run.plan.phases

    def skip_bad_step(state, batch):
        after, metrics = matching.step(jax.tree.map(jnp.copy, state), batch)
        if int(state.step) == BAD:
            return state._replace(step=state.step + 1), metrics
        return after, metrics

    phases = [cloning, matching._replace(step=UncompiledStep(skip_bad_step))]
    without = good_run._replace(plan=good_run.plan._replace(phases=phases))
    other = train(without, tmp_path / "left out", save_every=4)
    assert bits(state._replace(guard=0)) == bits(other._replace(guard=0))
    found = {r["step"]: r for r in records(tmp_path / "bad") if r["kind"] == "train"}
    assert found[BAD + 1]["loss"] is None and found[BAD + 1]["skipped"] == 1
    assert found[STEPS]["skipped"] == 1 and found[STEPS]["skipped_in_a_row"] == 0
    assert all(r["loss"] is not None for step, r in found.items() if step != BAD + 1)
    # The schedule of the learning rate counts the steps that were taken.
    assert found[STEPS]["learning_rate"] == pytest.approx(
        float(tiny_run.parts.recipe.learning_rate(STEPS - 2))
    )


@pytest.mark.stress
@pytest.mark.exhaustive
@pytest.mark.parametrize("limit", [0, 2])
def test_bad_steps_in_a_row_beyond_the_limit_stop_the_run_unsaved(
    tiny_run, inject, tmp_path, limit
):
    bad_run = inject(np.inf, *range(BAD, STEPS), skip_nonfinite=limit)
    with pytest.raises(Diverged) as raised:
        train(bad_run, tmp_path, save_every=1)
    message = str(raised.value)
    assert message.startswith(
        f"step {BAD + 1 + limit}: loss, gradient_norm, update_norm not finite"
    )
    assert f"config.train.skip_nonfinite={limit}" in message and len(message.splitlines()) == 1
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(tiny_run.parts.like).state
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state)))
    assert int(state.step) - int(state.guard.skipped) == BAD
    assert int(state.guard.in_a_row) <= limit


@pytest.mark.stress
def test_bad_steps_apart_do_not_stop_the_run(inject, tmp_path):
    bad = range(CLONING, STEPS, 2)
    bad_run = inject(np.nan, *bad, skip_nonfinite=1)
    assert int(train(bad_run, tmp_path, save_every=STEPS).guard.skipped) == len(bad)


@pytest.mark.stress
def test_samples_are_drawn_from_finite_parameters_only(inject, tmp_path):
    bad_run, finite = inject(np.nan, *range(BAD, STEPS), skip_nonfinite=STEPS), []

    def refresh(state, *prompts):
        finite.append([np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state.params))])
        return bad_run.plan.refresh(state, *prompts)

    plan = bad_run.plan._replace(refresh=UncompiledStep(refresh))
    state = train(bad_run._replace(plan=plan), tmp_path, save_every=STEPS)
    assert len(finite) > 3 and np.all(finite) and int(state.guard.skipped) == STEPS - BAD


def test_the_monitor_reports_each_step_once_and_one_step_late():
    reported = []
    monitor = guard.Monitor(5, reported.append)
    good = dict(loss=jnp.float32(1.0), skipped=jnp.int32(0), skipped_in_a_row=jnp.int32(0))
    bad = dict(loss=jnp.float32(np.nan), skipped=jnp.int32(1), skipped_in_a_row=jnp.int32(1))
    for step, metrics in ((1, good), (2, bad), (3, good)):
        monitor.observe(step, metrics)
        assert len(reported) == (step > 2)
    monitor.flush()
    assert reported == ["step 2: loss not finite: skipped (1 in a row, 1 in all)"]


@pytest.mark.stress
def test_a_step_is_checked_before_it_is_saved(inject, tmp_path):
    bad_run = inject(np.nan, STEPS - 1, skip_nonfinite=0)
    for resume in (False, True):  # a saved bad step would make the resumed run end in success
        with pytest.raises(Diverged, match=f"step {STEPS}: "):
            train(bad_run, tmp_path, save_every=STEPS // 2, resume=resume)
