"""Objectives against explicit loops, and the laws they must obey."""

from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core import likelihood, mdp, reductions
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.likelihood import behavioural_cloning, log_unlikelihood
from sequencematch.core.objective import (
    WEIGHTINGS,
    Objective,
    discounted,
    expert_objective,
    policy_objective,
    sequencematch,
    start_value,
    summed_differences,
    uniform,
    without_noise_steps,
)
from sequencematch.core.rewards import (
    TERMINALS,
    bound_value,
    pass_gradient,
    recovered_return,
    recovered_rewards,
    stop_gradient,
    temporal_differences,
)
from sequencematch.core.trajectory import build_trajectory
from sequencematch.data.noise import add_noise, fix_by_popping
from tests import exact, oracles

PAD, BOS, EOS, BKSPC, POP_TWO = range(5)
LETTERS = range(5, 9)
EDITS = {BKSPC: 1, POP_TWO: 2}
V, SLOTS = 9, 14
MDP = mdp.make(V, eos=EOS, pad=PAD, never=[BOS], edits=EDITS)

GOALS = [
    oracles.Goal(divergence, weighting, alpha=alpha, gamma=0.8, w=w)
    for divergence, weighting, alpha, w in [
        ("chi2", "discounted", 0.7, 0.0),
        ("chi2", "discounted", 0.7, 0.5),
        ("chi2", "uniform", 0.3, 0.0),
        ("chi2_mixture", "discounted", 0.7, 0.5),
        ("chi2_mixture", "uniform", 0.3, 0.5),
        ("chi2_mixture", "uniform", 0.3, 1.0),
    ]
]
goals = pytest.mark.parametrize(
    "goal", GOALS, ids=[f"{g.divergence}-{g.weighting}-w{g.w}" for g in GOALS]
)


# Every divergence under every other choice: with V(s_N) = 0, values that are clipped, a slope cap that
# is reached, steps that are skipped.
STRUCTURES = {
    "plain": dict(weighting="discounted", alpha=0.7, w=0.5),
    "capped": dict(weighting="discounted", alpha=1.5, w=0.5, terminal="zero", t_max=3.0),
    "bounded": dict(weighting="uniform", alpha=9.0, w=0.0, terminal="zero", bound=4 / 1.8),
    "skip": dict(weighting="uniform", alpha=0.3, w=0.0, skip=True),
    "skip discounted": dict(weighting="discounted", alpha=0.7, w=0.0, skip=True),
}
structures = pytest.mark.parametrize("structure", STRUCTURES)


def every_goal(structure):
    return [oracles.Goal(name, gamma=0.8, **STRUCTURES[structure]) for name in DIVERGENCES]


def objective(goal, divergence=None):
    weighting = WEIGHTINGS[goal.weighting]
    bounded = goal.bound < oracles.INFINITE
    return Objective(
        divergence or DIVERGENCES[goal.divergence],
        goal.alpha,
        goal.gamma,
        goal.w,
        without_noise_steps(weighting) if goal.skip else weighting,
        TERMINALS[goal.terminal],
        bound_value(4 / (goal.bound * (1 - goal.gamma)), goal.gamma) if bounded else pass_gradient,
        goal.t_max,
    )


# Both divergences, both weightings, both sides of C: enough where pieces need no new mixing.
two_goals = pytest.mark.parametrize("goal", [GOALS[1], GOALS[4]], ids=["chi2", "chi2_mixture"])


# The batches: random strings with every kind of edit, noise steps, ended and cut.


def strings(rng, count):
    """(prompt, actions, labels); labels differ from what was executed at some steps."""
    for i in range(count):
        prompt = [BOS, *rng.choice(LETTERS, size=rng.integers(0, 3))]
        length = 0 if i == 1 else rng.integers(1, SLOTS - len(prompt) - 1)
        actions = oracles.random_actions(rng, length, ordinary=LETTERS, edits=list(EDITS))
        actions = [*actions, EOS] if i % 2 == 0 else actions
        labels = [int(rng.choice(LETTERS)) if rng.random() < 0.3 else a for a in actions]
        yield prompt, actions, labels


class Batch:
    """Episodes, their logits at every slot, and the oracle's view of both."""

    def __init__(self, seed, count, *, slots=SLOTS, imitate=True, scale=1.5):
        rng = np.random.default_rng(seed)
        self.strings = list(strings(rng, count))
        self.logits = scale * rng.normal(size=(count, SLOTS, V)).astype(np.float32)
        extra = rng.normal(size=(count, slots - SLOTS, V)).astype(np.float32)
        self.logits = np.concatenate([self.logits, extra], axis=1)
        self.episodes = oracles.stacked(
            [
                oracles.laid_out(p, a, labels, slots=slots, filler=EOS, imitate=choice(rng, a))
                for (p, a, labels), choice in zip(
                    self.strings, [self.counting(imitate)] * count, strict=True
                )
            ]
        )

    @staticmethod
    def counting(imitate):
        if imitate == "some":
            return lambda rng, actions: rng.random(len(actions)) < 0.6
        return lambda rng, actions: imitate

    @property
    def cases(self):
        for row, (prompt, actions, _) in enumerate(self.strings):
            yield oracles.Case(
                oracles.track(
                    prompt, actions, slots=self.logits.shape[1], edits=EDITS, eos=EOS, pad=PAD
                ),
                self.logits[row],
                self.episodes.labels[row],
                self.episodes.imitate[row],
                MDP.legal,
            )

    @cached_property
    def trajectories(self):
        return jax.tree.map(np.asarray, build(self.episodes))

    @property
    def arrays(self):
        return self.logits, self.trajectories

    def rows(self, index):
        return jax.tree.map(lambda x: x[index], self.arrays)


@jax.jit
def build(episodes):
    return jax.vmap(partial(build_trajectory, MDP))(episodes)


EXPERT, POLICY = Batch(0, 8), Batch(1, 6, imitate=False)
CASES = list(EXPERT.cases), list(POLICY.cases)
# Expert trajectories whose steps do not all count.
SOME = Batch(2, 8, imitate="some")
SOME_CASES = list(SOME.cases)


@jax.jit
def values_of(logits, trajectories):
    """One gather by state, then two numbers a step."""
    states = jnp.take_along_axis(logits, trajectories.state[..., None], axis=1)
    read = jax.vmap(partial(reductions.action_values, legal=MDP.legal))
    return read(states, trajectories.actions)


def read(logits, trajectories):
    """(values, trajectories) of a batch, as the objectives take them."""
    return values_of(logits, trajectories), jax.tree.map(jnp.asarray, trajectories)


def J(goal, expert, policy=None):
    return sequencematch(objective(goal), read(*expert), policy and read(*policy))


class Compiled:
    """J and its parts; goals that differ only in numbers share one program."""

    def __init__(self):
        self.programs = {}

    def __call__(self, f, goal, *arrays):
        def program(alpha, w, *arrays):
            return f(goal._replace(alpha=alpha, w=w), *arrays)

        names = goal._replace(alpha=None, w=None)
        program = self.programs.setdefault((f, names), jax.jit(program))
        return program(goal.alpha, goal.w, *arrays)


run = Compiled()


def compiled(goal):
    """J of (expert, policy), or of the expert alone."""
    return partial(run, J, goal)


def J_and_gradient(goal, logits, experts, policies):
    def loss(logits):
        policy = None if policies is None else (logits[1], policies)
        return J(goal, (logits[0], experts), policy)

    return jax.value_and_grad(loss)(logits)


def gradient(goal):
    """J, and its gradient with respect to the logits of the expert's slots and the policy's."""
    return partial(run, J_and_gradient, goal)


@jax.jit
def bc(logits, trajectories):
    return behavioural_cloning(*read(logits, trajectories))


PARTS = {
    part: lambda goal, arrays, part=part: jax.vmap(partial(part, objective(goal)))(*read(*arrays))
    for part in (
        expert_objective,
        policy_objective,
        summed_differences,
        start_value,
    )
}


def one_by_one(part, goal, arrays):
    """A per-trajectory function of every row of a batch."""
    return np.asarray(run(PARTS[part], goal, arrays))


def test_the_batches_have_everything():
    for batch in (EXPERT, POLICY):
        trajectories = batch.trajectories
        assert trajectories.finished.any() and not trajectories.finished.all()
        assert (trajectories.end == trajectories.start).any()
        executed = np.roll(batch.episodes.tokens, -1, axis=1)
        assert (trajectories.valid & (executed != batch.episodes.labels)).any()
        assert np.isin(executed, list(EDITS)).any()


# Against loops.


def test_behavioural_cloning_is_the_loop():
    for batch in (EXPERT, SOME):
        expected = oracles.behavioural_cloning(list(batch.cases))
        np.testing.assert_allclose(bc(*batch.arrays), expected, rtol=1e-5)


@goals
def test_each_trajectory_is_the_loop(goal):
    for f, oracle, batch, cases in [
        (expert_objective, oracles.expert_objective, EXPERT, CASES[0]),
        (policy_objective, oracles.policy_objective, POLICY, CASES[1]),
    ]:
        expected = [oracle(goal, case) for case in cases]
        actual = one_by_one(f, goal, batch.arrays)
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@goals
def test_the_batch_is_the_loop(goal):
    actual = compiled(goal)(EXPERT.arrays, POLICY.arrays)
    np.testing.assert_allclose(actual, oracles.sequencematch(goal, *CASES), rtol=2e-5)


def test_only_imitated_steps_earn():
    for goal in GOALS:
        actual = one_by_one(expert_objective, goal, SOME.arrays)
        expected = [oracles.expert_objective(goal, case) for case in SOME_CASES]
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@partial(jax.jit, static_argnames=("part", "structure"))
def of_row(part, structure, row, alpha, arrays):
    """A part of J of every trajectory of a batch; one program serves every divergence."""
    goal = every_goal(structure)[0]._replace(alpha=alpha)
    goal = objective(goal, exact.chosen(row, goal.t_max))
    return jax.vmap(partial(part, goal))(*read(*arrays))


@structures
def test_every_divergence_under_every_choice_is_the_loop(structure):
    for row, goal in enumerate(every_goal(structure)):
        for part, oracle, batch, cases in [
            (expert_objective, oracles.expert_objective, SOME, SOME_CASES),
            (policy_objective, oracles.policy_objective, POLICY, CASES[1]),
        ]:
            expected = [oracle(goal, case) for case in cases]
            actual = of_row(part, structure, row, goal.alpha, batch.arrays)
            np.testing.assert_allclose(actual, expected, rtol=5e-5, atol=5e-5)


def test_the_choices_are_choices():
    """The cap and the bound are reached, V(s_N) of what ended is not 0, steps are skipped."""
    capped, bounded = every_goal("capped")[2], every_goal("bounded")[0]
    case = next(case for case in SOME_CASES if case.track.finished and len(case.decisions) > 3)
    rewards = [capped.alpha * capped.reward(case, t) for t in case.decisions]
    assert any(capped.phi(x) != capped._replace(t_max=1e9).phi(x) for x in rewards)
    assert any(abs(case.value(t + 1)) > bounded.bound for t in case.decisions)
    assert case.value(case.track.end) != capped.value(case, case.track.end) == 0
    assert not all(case.imitate[t] for t in case.decisions)


def test_statistics_are_those_of_the_loop():
    values, trajectories = read(*EXPERT.arrays)
    rewards = jax.vmap(partial(recovered_rewards, gamma=0.8))(values, trajectories)
    differences = jax.vmap(partial(temporal_differences, gamma=0.8))(values, trajectories)
    for row, case in enumerate(CASES[0]):
        for t in range(SLOTS):
            if t in case.decisions:
                reward = case.reward(t, 0.8)
                difference = case.value(t) - 0.8 * case.value(t + 1)
            else:
                reward = difference = 0
            np.testing.assert_allclose(rewards[row, t], reward, atol=1e-5)
            np.testing.assert_allclose(differences[row, t], difference, atol=1e-5)


# Identities of the objective.


def test_discounted_costs_telescope():
    """C(tau) = V(s_0), whatever was sampled."""
    goal = GOALS[3]
    for batch in (EXPERT, POLICY):
        summed = one_by_one(summed_differences, goal, batch.arrays)
        start = one_by_one(start_value, goal, batch.arrays)
        np.testing.assert_allclose(summed, start, rtol=1e-5)
    assert discounted.telescopes
    # Undiscounted they do not, for more than one state.
    summed = one_by_one(summed_differences, GOALS[4], EXPERT.arrays)
    assert not np.isclose(summed, one_by_one(start_value, goal, EXPERT.arrays))[2:].any()
    assert not uniform.telescopes


def test_uniform_costs_count_later_states_one_minus_gamma_times():
    """C(tau) = V(s_0) + (1-gamma) sum_{t>=1} V(s_t)."""
    goal = GOALS[4]
    summed = one_by_one(summed_differences, goal, EXPERT.arrays)
    for case, c in zip(CASES[0], summed, strict=True):
        later = sum(case.value(t) for t in range(case.track.start + 1, case.track.end + 1))
        expected = case.value(case.track.start) + (1 - goal.gamma) * later
        np.testing.assert_allclose(c, expected, rtol=1e-5)


@goals
def test_small_alpha_is_weighted_likelihood(goal):
    """phi(alpha r)/alpha -> r, B -> V(s_N), psi -> 0: every V but those of C cancels.

    J -> (sum_t kappa_t log pi(a_t|s_t) + w (C(tau_E) - C(tau_pi))) / steps.
    """
    small = goal._replace(alpha=1e-6)
    limit = 0.0
    for case in CASES[0]:
        for t in case.decisions:
            limit += goal.kappa(case, t) * (case.q(t) - case.value(t))
        limit += goal.w * oracles.cost(goal, case)
    limit -= goal.w * sum(oracles.cost(goal, c) for c in CASES[1]) * len(CASES[0]) / len(CASES[1])
    actual = compiled(small)(EXPERT.arrays, POLICY.arrays)
    np.testing.assert_allclose(actual, limit / oracles.imitated(CASES[0]), rtol=1e-4)


def test_small_alpha_under_uniform_weights_is_behavioural_cloning():
    """Exactly, at w = 0: value and gradient."""
    goal = GOALS[2]._replace(alpha=1e-6)
    value, grads = gradient(goal)((EXPERT.logits, POLICY.logits), EXPERT.trajectories, None)
    expected, expected_grads = jax.value_and_grad(bc)(*EXPERT.arrays)
    np.testing.assert_allclose(value, -expected, rtol=1e-4)
    np.testing.assert_allclose(grads[0], -expected_grads, atol=1e-5)


@pytest.mark.parametrize("structure", sorted(STRUCTURES.keys() - {"bounded"}))
def test_small_alpha_of_every_divergence_is_weighted_likelihood(structure):
    """Trajectory by trajectory: sum_t kappa_t log pi(a_t|s_t) + w C over the steps that count."""
    for row, goal in enumerate(every_goal(structure)):
        for batch, cases in ((EXPERT, CASES[0]), (SOME, SOME_CASES)):
            if batch is SOME and not goal.skip:
                # What is neither imitated nor skipped: below.
                continue
            limits = []
            for case in cases:
                counted = [t for t in case.decisions if case.imitate[t]]
                steps = [goal.kappa(case, t) * (case.q(t) - case.value(t)) for t in counted]
                limits.append(sum(steps) + goal.w * oracles.cost(goal, case))
            actual = of_row(expert_objective, structure, row, 1e-6, batch.arrays)
            np.testing.assert_allclose(actual, limits, rtol=1e-4, atol=1e-4)


def test_small_alpha_step_by_step():
    """r - (V - gamma V') = l - V."""
    values, trajectories = read(*EXPERT.arrays)
    rewards = jax.vmap(partial(recovered_rewards, gamma=0.8))(values, trajectories)
    differences = jax.vmap(partial(temporal_differences, gamma=0.8))(values, trajectories)
    expected = np.where(trajectories.valid, values.q - values.v, 0)
    np.testing.assert_allclose(rewards - differences, expected, atol=1e-5)


def test_chi2_without_samples_is_td_regularised_likelihood():
    """Uniform weights, w = 0, V(s_N) = 0: -log pi(a|s) + lambda (l(a|s) - gamma V(s'))^2 a step.

    With lambda = alpha/4 (inverse RL, arXiv 2409.01369): ended or cut, steps skipped or not.
    """
    for skip, batch, cases in ((False, EXPERT, CASES[0]), (True, SOME, SOME_CASES)):
        goal = GOALS[2]._replace(terminal="zero", skip=skip)
        weight = goal.alpha / 4
        expected = [
            sum(
                case.q(t) - case.value(t) - weight * goal.reward(case, t) ** 2
                for t in case.decisions
                if case.imitate[t]
            )
            for case in cases
        ]
        actual = one_by_one(expert_objective, goal, batch.arrays)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def expert_slopes(goal, batch):
    """dJ/dq and dJ/dv of the expert's part, of every row, by times."""

    def of_values(goal, arrays):
        values, trajectories = read(*arrays)
        part = jax.grad(lambda v, t: expert_objective(objective(goal), v, t))
        return jax.vmap(part)(values, trajectories)

    return jax.tree.map(np.asarray, jax.jit(partial(of_values, goal))(batch.arrays))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_constant_at_a_noised_state_earns_nothing_under_skip(weighting):
    """To first order: what adds to l(.|s) is in q and in V alike, and kept steps hold q - V.

    Without `skip` a step that does not count leaves -kappa_t (V - gamma V') of C behind: J pays
    kappa_t gamma for V at the state that the environment led to.
    """
    goal = oracles.Goal("chi2", weighting, 1e-6, 0.8, 0.0, skip=True)
    slopes = expert_slopes(goal, SOME)
    np.testing.assert_allclose(slopes.q + slopes.v, 0, atol=1e-5)
    slopes, paid = expert_slopes(goal._replace(skip=False), SOME), 0
    for row, case in enumerate(SOME_CASES):
        expected = np.zeros(SLOTS)
        for t in case.decisions:
            if not case.imitate[t]:
                expected[t] -= goal.kappa(case, t)
                expected[t + 1] += goal.kappa(case, t) * goal.gamma
                paid += 1
        np.testing.assert_allclose((slopes.q + slopes.v)[row], expected, atol=1e-5)
    assert paid > 10


@pytest.mark.parametrize("name", ["chi2", "le_cam", "reverse_kl"])
def test_a_stopped_next_value_has_no_gradient(name):
    """The value is the same; of dJ/dV(s_{t+1}) it lacks -gamma kappa_t phi'(alpha r_t)."""
    goal = oracles.Goal(name, "discounted", 0.3, 0.8, 0.0)
    still = objective(goal)._replace(next_value=stop_gradient)
    slope_of_phi = jax.grad(objective(goal).phi)

    @jax.jit
    @jax.vmap
    def both(values, trajectory):
        of_values = [
            jax.value_and_grad(lambda v, j=j: expert_objective(j, v, trajectory))(values)
            for j in (objective(goal), still)
        ]
        return tuple(of_values)

    (value, slopes), (same, stopped) = both(*read(*EXPERT.arrays))
    np.testing.assert_array_equal(value, same)
    np.testing.assert_allclose(slopes.q, stopped.q, atol=1e-6)
    for row, case in enumerate(CASES[0]):
        missing = np.zeros(SLOTS)
        for t in case.decisions:
            x = goal.alpha * case.reward(t, goal.gamma)
            missing[t + 1] = -goal.gamma * goal.kappa(case, t) * float(slope_of_phi(x))
        np.testing.assert_allclose((slopes.v - stopped.v)[row], missing, atol=1e-5)


def test_a_bound_that_no_value_reaches_changes_nothing():
    """And one that every value reaches takes the gradient away, as `stopped` does."""
    goal = GOALS[1]
    near = goal._replace(bound=20.0)
    for a, b in zip(expert_slopes(near, EXPERT), expert_slopes(goal, EXPERT), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    clip = bound_value(2.0, 0.9)
    v = jnp.array([-1e4, -20.0, -19.9, 0.0, 19.9, 20.1, 1e4])
    np.testing.assert_allclose(clip(v), np.clip(v, -20, 20), rtol=1e-5)
    slope = jax.grad(lambda v: clip(v).sum())(v)
    np.testing.assert_array_equal(slope[jnp.array([0, 2, 3, 4, 5, 6])], [0, 1, 1, 1, 0, 0])
    still = bound_value(2.0, 0.9, stop_gradient)
    assert not jax.grad(lambda v: still(v).sum())(v).any()


def test_the_recovered_return_is_the_likelihood_and_the_first_value():
    """sum_t gamma^t r_t + gamma^N V(s_N) = sum_t gamma^t log pi(a_t|s_t) + V(s_0)."""
    for batch, cases in ((EXPERT, CASES[0]), (POLICY, CASES[1])):
        values, trajectories = read(*batch.arrays)
        returns = jax.vmap(partial(recovered_return, gamma=0.8))(values, trajectories)
        for actual, case in zip(returns, cases, strict=True):
            start = case.track.start
            steps = [0.8 ** (t - start) * (case.q(t) - case.value(t)) for t in case.decisions]
            np.testing.assert_allclose(actual, sum(steps) + case.value(start), atol=1e-4)


# Samples that do not end.


LONG = [5, 6, BKSPC, 7, 8, 5, POP_TWO, 6, 7, 8]


@pytest.fixture(scope="module")
def longer():
    """Beginnings of one sample, 0, 1, .. of its actions, then the whole of it with `<eos>`."""
    strings = [LONG[:n] for n in range(len(LONG) + 1)] + [[*LONG, EOS]]
    episodes = oracles.stacked(
        [oracles.laid_out([BOS], a, a, slots=SLOTS, filler=EOS, imitate=False) for a in strings]
    )
    logits = np.random.default_rng(7).normal(size=(1, SLOTS, V)).astype(np.float32)
    return np.repeat(logits, len(strings), axis=0), build(episodes)


def test_no_objective_grows_with_longer_samples(longer):
    """Discounted: C stays V(s_0), as a sum too, and the mixture's penalty grows."""
    for row, name in enumerate(DIVERGENCES):
        J = np.asarray(of_row(policy_objective, "plain", row, 0.7, longer))
        if name == "chi2_mixture":
            assert (np.diff(J) < 0).all()
        else:
            np.testing.assert_allclose(J, J[0], rtol=1e-6)
    summed = one_by_one(summed_differences, GOALS[3], longer)
    np.testing.assert_allclose(summed, summed[0], rtol=1e-5)


def slopes(goal, arrays, part):
    """d part / d V(s_N) of every row."""

    def per_row(values, trajectory):
        of_v = jax.grad(lambda v: part(objective(goal), values._replace(v=v), trajectory))
        return of_v(values.v)[trajectory.end]

    return jax.vmap(per_row)(*read(*arrays))


EXPERT_SLOPES = partial(slopes, part=expert_objective)
POLICY_SLOPES = partial(slopes, part=policy_objective)


def slope_at_the_end(f, goal, batch):
    """The slope and (N, r_{N-1}, V(s_N), finished) of every row that has a decision."""
    for slope, case in zip(np.asarray(run(f, goal, batch.arrays)), batch.cases, strict=True):
        end, n = case.track.end, len(case.decisions)
        if n:
            reward = case.reward(end - 1, goal.gamma)
            yield slope, n, reward, case.value(end), case.track.finished


@pytest.mark.parametrize("goal", [GOALS[1], GOALS[3]], ids=["chi2", "chi2_mixture"])
def test_what_the_last_value_of_an_expert_earns(goal):
    """dJ/dV(s_N) = gamma^N (B'(V(s_N)) - phi'(alpha r_{N-1})), B' = 1 where it was cut."""
    slope_of_phi = jax.grad(objective(goal).divergence.phi)
    rows = list(slope_at_the_end(EXPERT_SLOPES, goal, EXPERT))
    assert {finished for *_, finished in rows} == {True, False}
    for slope, n, reward, value, finished in rows:
        bootstrap = slope_of_phi(goal.alpha * (1 - goal.gamma) * value) if finished else 1.0
        expected = goal.gamma**n * (bootstrap - slope_of_phi(goal.alpha * reward))
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_a_cut_sample_still_pays_for_its_last_value():
    """Uniform weights: its C holds (1-gamma) V(s_N); else the objective pays for never ending."""
    goal = GOALS[4]
    slope_of_psi = jax.grad(objective(goal).divergence.psi)
    rows = list(slope_at_the_end(POLICY_SLOPES, goal, POLICY))
    assert {finished for *_, finished in rows} == {True, False}
    for slope, _, reward, value, finished in rows:
        scale = goal.alpha * (1 - goal.gamma)
        absorbed = slope_of_psi(scale * value) if finished else 0.0
        penalty = -goal.gamma * slope_of_psi(goal.alpha * reward)
        expected = -goal.w * (1 - goal.gamma) + penalty + absorbed
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_an_added_constant_changes_the_objective_and_not_the_likelihood():
    shifted = (EXPERT.logits + 1, EXPERT.trajectories)
    np.testing.assert_allclose(bc(*shifted), bc(*EXPERT.arrays), rtol=1e-5)
    for goal in GOALS[:3]:
        assert abs(compiled(goal)(shifted) - compiled(goal)(EXPERT.arrays)) > 1e-3


# Invariances.


@two_goals
def test_padding_changes_nothing(goal):
    """Neither the value nor a gradient, which is zero on the slots that are new."""
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
def test_the_order_of_a_batch_does_not_matter(goal):
    rng = np.random.default_rng(3)
    shuffled = EXPERT.rows(rng.permutation(8)), POLICY.rows(rng.permutation(6))
    np.testing.assert_allclose(
        compiled(goal)(*shuffled), compiled(goal)(EXPERT.arrays, POLICY.arrays), rtol=1e-5
    )
    np.testing.assert_allclose(bc(*shuffled[0]), bc(*EXPERT.arrays), rtol=1e-5)


@two_goals
def test_micro_batches_add_up(goal):
    """Sums over halves, weighted by their counts, are the batch's: value and gradient."""
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


def test_micro_batches_of_cloning_add_up():
    counts = EXPERT.trajectories.imitate.sum(axis=1)
    halves = [counts[rows].sum() * bc(*EXPERT.rows(rows)) for rows in (slice(0, 4), slice(4, None))]
    np.testing.assert_allclose(sum(halves) / counts.sum(), bc(*EXPERT.arrays), rtol=1e-5)


def test_more_samples_weigh_no_more():
    """The policy's sums are scaled by (expert trajectories)/(policy trajectories)."""
    for goal in GOALS[3:6]:
        twice = jax.tree.map(lambda x: np.concatenate([x, x]), POLICY.arrays)
        np.testing.assert_allclose(
            compiled(goal)(EXPERT.arrays, twice),
            compiled(goal)(EXPERT.arrays, POLICY.arrays),
            rtol=1e-5,
        )


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_without_samples_all_of_the_cost_is_the_experts(weighting):
    """policy=None is w = 0, where samples of chi2 change nothing."""
    half = oracles.Goal("chi2", weighting, alpha=0.5, gamma=0.8, w=0.5)
    none = half._replace(w=0.0)
    values = [
        compiled(half)(EXPERT.arrays),
        compiled(none)(EXPERT.arrays),
        compiled(none)(EXPERT.arrays, POLICY.arrays),
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)
    assert abs(compiled(half)(EXPERT.arrays, POLICY.arrays) - values[0]) > 1e-3


def test_who_needs_samples():
    needs = {
        ("chi2", "discounted", 0.0): False,
        ("chi2", "discounted", 0.5): False,
        ("chi2", "uniform", 0.0): False,
        ("chi2", "uniform", 0.5): True,
        ("chi2_mixture", "discounted", 0.0): True,
        ("chi2_mixture", "uniform", 0.0): True,
    }
    for (divergence, weighting, w), needed in needs.items():
        goal = oracles.Goal(divergence, weighting, 0.5, 0.8, w)
        assert objective(goal).needs_samples == needed


# Numbers.


@jax.jit
def curvature(row, alpha, logits, directions, experts, policies):
    """J of any divergence, its gradient, and its Hessian times a direction."""
    goal = objective(GOALS[4]._replace(alpha=alpha), exact.chosen(row, 100.0))

    def loss(logits):
        return sequencematch(goal, read(logits[0], experts), read(logits[1], policies))

    value, change = jax.jvp(jax.value_and_grad(loss), (logits,), (directions,))
    return *value, change[1]


@pytest.mark.parametrize("alpha", [0.01, 1.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_everything_is_finite_at_extreme_logits(name, alpha):
    """Value, gradient, curvature: at 1e4 of either sign, -inf where an id is no action."""
    extreme = [np.sign(b.logits) * np.float32(1e4) for b in (EXPERT, POLICY)]
    directions = tuple(np.tanh(b.logits) for b in (EXPERT, POLICY))
    trajectories = EXPERT.trajectories, POLICY.trajectories
    for logits in (extreme, [np.where(MDP.legal, x, -np.inf).astype(np.float32) for x in extreme]):
        numbers = exact.index(name), alpha, tuple(logits), directions, *trajectories
        for found in jax.tree.leaves(curvature(*numbers)):
            assert np.isfinite(np.asarray(found)).all()
            assert found.ndim == 0 or not np.asarray(found)[..., ~MDP.legal].any()


def test_gradients_of_cloning_are_finite_at_extreme_logits():
    extreme = np.sign(EXPERT.logits) * np.float32(1e4)
    for logits in (extreme, np.where(MDP.legal, extreme, -np.inf).astype(np.float32)):
        assert np.isfinite(np.asarray(jax.grad(bc)(logits, EXPERT.trajectories))).all()


@jax.jit
def alone(logits, trajectory):
    """The expert's part of one trajectory, never batched."""
    states = logits[trajectory.state]
    values = reductions.action_values(states, trajectory.actions, MDP.legal)
    return expert_objective(objective(GOALS[1]), values, trajectory)


def test_batched_is_one_by_one():
    batched = one_by_one(expert_objective, GOALS[1], EXPERT.arrays)
    rows = [alone(*EXPERT.rows(row)) for row in range(8)]
    np.testing.assert_allclose(batched, rows, rtol=1e-6)
    # Which is summed, and divided once by the number of imitated steps: no mean per trajectory.
    J = compiled(GOALS[1]._replace(w=0.0))(EXPERT.arrays)
    summed = one_by_one(expert_objective, GOALS[1]._replace(w=0.0), EXPERT.arrays).sum()
    np.testing.assert_allclose(J, summed / EXPERT.trajectories.imitate.sum(), rtol=1e-6)


@two_goals
def test_half_precision_loses_what_the_logits_lose(goal):
    """J of bfloat16 logits is that of the same numbers in float32: sums are float32.

    So its error is the logits', 2^-9 of each at most, times their gradients.
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
    stated = sum(2**-9 * np.abs(x * g).sum() for x, g in zip(exact_logits, grads, strict=True))
    assert 0 < abs(value - J) < stated < 0.1 * abs(J)


@two_goals
def test_compiled_is_eager(goal):
    np.testing.assert_allclose(
        J(goal, EXPERT.arrays, POLICY.arrays),
        compiled(goal)(EXPERT.arrays, POLICY.arrays),
        rtol=1e-5,
    )


def test_nothing_to_imitate_is_no_division_by_zero():
    nothing = Batch(4, 4, imitate=False)
    assert bc(*nothing.arrays) == 0
    assert np.isfinite(compiled(GOALS[0])(nothing.arrays))


# Unlikelihood.


def texts_seen(batch):
    """bool[B, T, T]: which slots make up the text at each time; and the texts themselves."""
    seen, states = np.zeros((len(batch.strings), SLOTS, SLOTS), bool), []
    for row, (prompt, actions, _) in enumerate(batch.strings):
        replayed = oracles.replay(prompt, actions, EDITS)
        for n, state in enumerate(replayed):
            seen[row, len(prompt) - 1 + n, [slot for slot, _ in state]] = True
        states.append([[token for _, token in state] for state in replayed])
    return seen, states


@jax.jit
def unlikelihood(logits, seen, trajectories):
    states = jnp.take_along_axis(logits, trajectories.state[..., None], axis=1)
    find = jax.vmap(partial(log_unlikelihood, legal=MDP.legal))
    unlikely = find(states, trajectories.actions, seen, trajectories.tokens)
    return likelihood.unlikelihood(values_of(logits, trajectories), unlikely, trajectories)


def test_unlikelihood_is_the_loop():
    for batch, cases in ((EXPERT, CASES[0]), (SOME, SOME_CASES)):
        seen, states = texts_seen(batch)
        expected = oracles.unlikelihood(cases, states)
        assert expected > oracles.behavioural_cloning(cases) + 0.1
        trajectories = jax.tree.map(jnp.asarray, batch.trajectories)
        actual = unlikelihood(batch.logits, seen, trajectories)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_unlikelihood_where_nothing_else_was_said_is_cloning():
    """What a text holds is its prompt, which is no action, and its label alone: no candidates."""
    trajectories = jax.tree.map(jnp.asarray, EXPERT.trajectories)
    nothing = np.zeros((8, SLOTS, SLOTS), bool)
    nothing[..., 0] = True
    np.testing.assert_allclose(
        unlikelihood(EXPERT.logits, nothing, trajectories), bc(*EXPERT.arrays), rtol=1e-6
    )
    seen = np.ones((8, SLOTS, SLOTS), bool)
    same = trajectories._replace(
        tokens=jnp.full((8, SLOTS), 5).at[:, 0].set(BOS), actions=jnp.full((8, SLOTS), 5)
    )
    np.testing.assert_allclose(
        unlikelihood(EXPERT.logits, seen, same), bc(EXPERT.logits, same), rtol=1e-6
    )


def test_unlikelihood_is_finite_at_extreme_logits():
    seen, _ = texts_seen(EXPERT)
    trajectories = jax.tree.map(jnp.asarray, EXPERT.trajectories)
    extreme = np.sign(EXPERT.logits) * np.float32(1e4)
    for logits in (extreme, np.where(MDP.legal, extreme, -np.inf).astype(np.float32)):
        value, slope = jax.value_and_grad(unlikelihood)(logits, seen, trajectories)
        assert np.isfinite(value) and np.isfinite(np.asarray(slope)).all()


# Maximum likelihood.


def test_cloning_clean_data_without_edits_is_maximum_likelihood(transformer):
    """At eta = 0 and on mle's action set: loss, and gradient of every parameter."""
    rng = np.random.default_rng(5)
    legal = np.ones(12, bool)
    legal[[PAD, BOS, BKSPC, POP_TWO]] = False
    process = mdp.make(12, eos=EOS, pad=PAD, never=[BOS, BKSPC, POP_TWO], edits={})
    tokens, targets, counts, episodes = *np.zeros((3, 5, 10), np.int32), []
    for row in range(5):
        prompt = [BOS, *rng.choice(LETTERS, size=row % 3)]
        clean = [*map(int, rng.choice(LETTERS, size=rng.integers(1, 6))), EOS]
        executed, labels, imitate = add_noise(
            rng,
            clean,
            eta=0.0,
            run=0.5,
            wrong=list(LETTERS),
            mending=fix_by_popping({BKSPC: 1}),
            step="clean",
            limit=10,
        )
        assert all(imitate)
        episodes.append(oracles.laid_out(prompt, executed, labels, slots=10, filler=EOS))
        text = [*prompt, *clean]
        tokens[row, : len(text)] = text
        targets[row, : len(text) - 1] = text[1:]
        counts[row, len(prompt) - 1 : len(text) - 1] = 1
    episodes = oracles.stacked(episodes)

    def cloning(model):
        t = jax.vmap(partial(build_trajectory, process))(episodes)
        hidden = model(t.tokens, t.positions, t.visible_until)
        states = jnp.take_along_axis(hidden, t.state[..., None], axis=1)
        read = jax.vmap(partial(reductions.action_values, legal=process.legal))
        return behavioural_cloning(read(model.logits(states), t.actions), t)

    def likelihood(model):
        """Next-token cross-entropy of a plain causal pass, on the completions."""
        everything = jnp.full(tokens.shape, tokens.shape[1])
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        logits = model.logits(model(jnp.asarray(tokens), positions, everything))
        log_pi = jax.nn.log_softmax(jnp.where(legal, logits, -jnp.inf))
        picked = jnp.take_along_axis(log_pi, jnp.asarray(targets)[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(counts == 1, picked, 0)) / counts.sum()

    (a, grads), (b, expected) = (
        nnx.jit(nnx.value_and_grad(f))(transformer) for f in (cloning, likelihood)
    )
    np.testing.assert_allclose(a, b, rtol=1e-6)
    pairs = list(zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True))
    assert len(pairs) > 10
    for x, y in pairs:
        np.testing.assert_allclose(x, y, atol=1e-6)
