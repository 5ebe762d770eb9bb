"""The plan of a run against plain loops."""

import pytest

from tests.train.plans import ROWS, SLOTS, make_phase, make_plan

PLANS = [
    make_plan(make_phase("mle", 9), every=2),
    make_plan(make_phase("bc", 5), make_phase("sequencematch", 17, True, 4), every=3),
    make_plan(make_phase("bc", 6), make_phase("sequencematch", 17, True, 4), every=3),
    make_plan(make_phase("bc", 0), make_phase("sequencematch", 5, True, 4), every=2),
    make_plan(make_phase("bc", 4), make_phase("sequencematch", 9, False, 3), every=1),
    make_plan(make_phase("bc", 4), make_phase("sequencematch", 9, True, 3), every=50),
    make_plan(
        make_phase("a", 3, True), make_phase("b", 3, True), make_phase("c", 8, True, 5), every=4
    ),
]


@pytest.mark.parametrize("plan", PLANS)
def test_phases_refreshes_and_tokens_equal_a_plain_loop(plan):
    step, trained, sampled = 0, 0, 0
    for phase in plan.phases:
        since = 0
        while step < phase.until:
            assert plan.tokens(step) == (trained, sampled)
            assert plan.phase(step) is phase
            assert plan.refreshes(step) == (phase.samples and since % plan.refresh_every == 0)
            sampled += plan.refreshes(step) * ROWS * SLOTS
            trained += phase.passes * SLOTS
            step, since = step + 1, since + 1
    assert plan.steps == step
    assert plan.tokens(step) == (trained, sampled)


def test_the_first_step_of_a_sampling_phase_follows_a_refresh():
    for plan in PLANS:
        drawing = [i for i in range(plan.steps) if plan.phase(i).samples]
        assert not drawing or plan.refreshes(drawing[0])
