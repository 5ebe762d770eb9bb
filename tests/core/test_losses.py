"""Objectives against explicit loops, and the laws they must obey."""

from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core import losses, masked, mdp, noise
from sequencematch.core.divergences import DIVERGENCES
from tests import oracles

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


def objective(goal):
    return losses.Objective(
        DIVERGENCES[goal.divergence],
        goal.alpha,
        goal.gamma,
        goal.w,
        losses.WEIGHTINGS[goal.weighting],
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
    return jax.vmap(partial(mdp.trajectory, MDP))(episodes)


EXPERT, POLICY = Batch(0, 8), Batch(1, 6, imitate=False)
CASES = list(EXPERT.cases), list(POLICY.cases)


@jax.jit
def values_of(logits, trajectories):
    """One gather by state, then two numbers a step."""
    states = jnp.take_along_axis(logits, trajectories.state[..., None], axis=1)
    read = jax.vmap(partial(masked.action_values, legal=MDP.legal))
    return read(states, trajectories.actions)


def read(logits, trajectories):
    """(values, trajectories) of a batch, as the objectives take them."""
    return values_of(logits, trajectories), jax.tree.map(jnp.asarray, trajectories)


def J(goal, expert, policy=None):
    return losses.sequencematch(objective(goal), read(*expert), policy and read(*policy))


class Compiled:
    """J and its parts; goals that differ only in numbers share one program."""

    def __init__(self):
        self.programs = {}

    def __call__(self, f, goal, *arrays):
        names = goal.divergence, goal.weighting

        def program(alpha, w, *arrays):
            return f(oracles.Goal(*names, alpha, goal.gamma, w), *arrays)

        program = self.programs.setdefault((f, names, goal.gamma), jax.jit(program))
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
    return losses.behavioural_cloning(*read(logits, trajectories))


PARTS = {
    part: lambda goal, arrays, part=part: jax.vmap(partial(part, objective(goal)))(*read(*arrays))
    for part in (
        losses.expert_objective,
        losses.policy_objective,
        losses.summed_differences,
        losses.start_value,
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
    for batch in (EXPERT, Batch(2, 8, imitate="some")):
        expected = oracles.behavioural_cloning(list(batch.cases))
        np.testing.assert_allclose(bc(*batch.arrays), expected, rtol=1e-5)


@goals
def test_each_trajectory_is_the_loop(goal):
    for f, oracle, batch, cases in [
        (losses.expert_objective, oracles.expert_objective, EXPERT, CASES[0]),
        (losses.policy_objective, oracles.policy_objective, POLICY, CASES[1]),
    ]:
        expected = [oracle(goal, case) for case in cases]
        actual = one_by_one(f, goal, batch.arrays)
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@goals
def test_the_batch_is_the_loop(goal):
    actual = compiled(goal)(EXPERT.arrays, POLICY.arrays)
    np.testing.assert_allclose(actual, oracles.sequencematch(goal, *CASES), rtol=2e-5)


def test_only_imitated_steps_earn():
    """At w = 1, where the expert's side has no C whose steps could be meant."""
    batch = Batch(2, 8, imitate="some")
    for goal in GOALS:
        goal = goal._replace(w=1.0)
        actual = one_by_one(losses.expert_objective, goal, batch.arrays)
        expected = [oracles.expert_objective(goal, case) for case in batch.cases]
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_statistics_are_those_of_the_loop():
    values, trajectories = read(*EXPERT.arrays)
    rewards = jax.vmap(partial(losses.rewards, gamma=0.8))(values, trajectories)
    differences = jax.vmap(partial(losses.temporal_differences, gamma=0.8))(values, trajectories)
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
        summed = one_by_one(losses.summed_differences, goal, batch.arrays)
        start = one_by_one(losses.start_value, goal, batch.arrays)
        np.testing.assert_allclose(summed, start, rtol=1e-5)
    assert losses.discounted.telescopes
    # Undiscounted they do not, for more than one state.
    summed = one_by_one(losses.summed_differences, GOALS[4], EXPERT.arrays)
    assert not np.isclose(summed, one_by_one(losses.start_value, goal, EXPERT.arrays))[2:].any()
    assert not losses.uniform.telescopes


def test_uniform_costs_count_later_states_one_minus_gamma_times():
    """C(tau) = V(s_0) + (1-gamma) sum_{t>=1} V(s_t)."""
    goal = GOALS[4]
    summed = one_by_one(losses.summed_differences, goal, EXPERT.arrays)
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


def test_chi2_without_samples_is_td_regularised_likelihood():
    """Uniform weights, w = 0, cut: -log pi(a|s) + (alpha/4) (l(a|s) - gamma V(s'))^2 a step."""
    goal = GOALS[2]
    expected = [
        sum(
            case.q(t) - case.value(t) - goal.alpha / 4 * case.reward(t, goal.gamma) ** 2
            for t in case.decisions
        )
        for case in CASES[0]
    ]
    actual = one_by_one(losses.expert_objective, goal, EXPERT.arrays)
    cut = [not case.track.finished for case in CASES[0]]
    np.testing.assert_allclose(actual[cut], np.array(expected)[cut], rtol=1e-5, atol=1e-5)


def slopes(goal, arrays, part):
    """d part / d V(s_N) of every row."""

    def per_row(values, trajectory):
        of_v = jax.grad(lambda v: part(objective(goal), values._replace(v=v), trajectory))
        return of_v(values.v)[trajectory.end]

    return jax.vmap(per_row)(*read(*arrays))


EXPERT_SLOPES = partial(slopes, part=losses.expert_objective)
POLICY_SLOPES = partial(slopes, part=losses.policy_objective)


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
    for goal in GOALS[3:]:
        twice = jax.tree.map(lambda x: np.concatenate([x, x]), POLICY.arrays)
        np.testing.assert_allclose(
            compiled(goal)(EXPERT.arrays, twice),
            compiled(goal)(EXPERT.arrays, POLICY.arrays),
            rtol=1e-5,
        )


@pytest.mark.parametrize("weighting", losses.WEIGHTINGS)
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


@two_goals
def test_gradients_are_finite_at_extreme_logits(goal):
    """At 1e4 of either sign, -inf where an id is no action."""
    extreme = [np.sign(b.logits) * np.float32(1e4) for b in (EXPERT, POLICY)]
    for logits in (extreme, [np.where(MDP.legal, x, -np.inf).astype(np.float32) for x in extreme]):
        value, grads = gradient(goal)(tuple(logits), EXPERT.trajectories, POLICY.trajectories)
        assert np.isfinite(value)
        for grad in grads:
            assert np.isfinite(np.asarray(grad)).all()
            assert not np.asarray(grad)[..., ~MDP.legal].any()
        of_bc = jax.grad(bc)(logits[0], EXPERT.trajectories)
        assert np.isfinite(np.asarray(of_bc)).all()


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
        executed, labels = noise.noised(
            rng, clean, eta=0.0, run=0.5, wrong=list(LETTERS), bkspc=BKSPC
        )
        episodes.append(oracles.laid_out(prompt, executed, labels, slots=10, filler=EOS))
        text = [*prompt, *clean]
        tokens[row, : len(text)] = text
        targets[row, : len(text) - 1] = text[1:]
        counts[row, len(prompt) - 1 : len(text) - 1] = 1
    episodes = oracles.stacked(episodes)

    def cloning(model):
        t = jax.vmap(partial(mdp.trajectory, process))(episodes)
        hidden = model(t.tokens, t.positions, t.visible_until)
        states = jnp.take_along_axis(hidden, t.state[..., None], axis=1)
        read = jax.vmap(partial(masked.action_values, legal=process.legal))
        return losses.behavioural_cloning(read(model.logits(states), t.actions), t)

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
