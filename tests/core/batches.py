"""Batches, objectives and compiled programs that the tests of losses share.

A batch holds random strings with every kind of edit and noise steps. Some end with `<eos>`, others
are cut.
"""

from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core import mdp, reductions
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.likelihood import behavioural_cloning
from sequencematch.core.objective import (
    WEIGHTINGS,
    Objective,
    expert_objective,
    policy_objective,
    sequencematch,
    start_value,
    summed_differences,
    without_noise_steps,
)
from sequencematch.core.rewards import TERMINALS, bound_value, pass_gradient
from sequencematch.core.trajectory import build_trajectory
from tests import exact, oracles
from tests.marks import stress

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

# Both divergences, both weightings, both sides of C. Enough for laws that hold term by term.
two_goals = pytest.mark.parametrize(
    "goal", [stress(GOALS[1]), GOALS[4]], ids=["chi2", "chi2_mixture"]
)

# The other choices, each tried with every divergence: V(s_N) = 0, clipped values, a cap on the slope
# that is reached, skipped steps.
STRUCTURES = {
    "plain": dict(weighting="discounted", alpha=0.7, w=0.5),
    "capped": dict(weighting="discounted", alpha=1.5, w=0.5, terminal="zero", t_max=3.0),
    "bounded": dict(weighting="uniform", alpha=9.0, w=0.0, terminal="zero", bound=4 / 1.8),
    "bounded discounted": dict(
        weighting="discounted", alpha=9.0, w=0.3, terminal="zero", bound=4 / 1.8
    ),
    "skip": dict(weighting="uniform", alpha=0.3, w=0.0, skip=True),
    "skip discounted": dict(weighting="discounted", alpha=0.7, w=0.0, skip=True),
}
structures = pytest.mark.parametrize("structure", STRUCTURES)


def goals_of(structure):
    """One goal per divergence, in the order of `DIVERGENCES`."""
    return [oracles.Goal(name, gamma=0.8, **STRUCTURES[structure]) for name in DIVERGENCES]


def objective_of(goal, divergence=None):
    """The package's objective of an oracle's goal."""
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


def random_strings(rng, count):
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
        self.strings = list(random_strings(rng, count))
        self.logits = scale * rng.normal(size=(count, SLOTS, V)).astype(np.float32)
        extra = rng.normal(size=(count, slots - SLOTS, V)).astype(np.float32)
        self.logits = np.concatenate([self.logits, extra], axis=1)
        self.episodes = oracles.stack_episodes(
            [
                oracles.lay_out_episode(
                    prompt,
                    actions,
                    labels,
                    slots=slots,
                    filler=EOS,
                    imitate=rng.random(len(actions)) < 0.6 if imitate == "some" else imitate,
                )
                for prompt, actions, labels in self.strings
            ]
        )

    @property
    def cases(self):
        """The rows as the oracles take them."""
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
# Expert trajectories of which only some steps are imitated.
SOME = Batch(2, 8, imitate="some")
SOME_CASES = list(SOME.cases)


@jax.jit
def values_of(logits, trajectories):
    """Q and V of every step: one gather by state, then two numbers per step."""
    states = jnp.take_along_axis(logits, trajectories.state[..., None], axis=1)
    read = jax.vmap(partial(reductions.action_values, legal=MDP.legal))
    return read(states, trajectories.actions)


def read(logits, trajectories):
    """(values, trajectories) of a batch, as the objectives take them."""
    return values_of(logits, trajectories), jax.tree.map(jnp.asarray, trajectories)


def J(goal, expert, policy=None):
    """J of a batch, not compiled."""
    return sequencematch(objective_of(goal), read(*expert), policy and read(*policy)).value


class ProgramCache:
    """Compiled functions of goals; goals that differ only in alpha share one program."""

    def __init__(self):
        self.programs = {}

    def __call__(self, f, goal, *arrays):
        def program(alpha, *arrays):
            return f(goal._replace(alpha=alpha), *arrays)

        program = self.programs.setdefault((f, goal._replace(alpha=None)), jax.jit(program))
        return program(goal.alpha, *arrays)


run = ProgramCache()


def compile_objective(goal):
    """J as a compiled function of (expert, policy), or of the expert alone."""
    return partial(run, J, goal)


def J_and_gradient(goal, logits, experts, policies):
    def loss(logits):
        policy = None if policies is None else (logits[1], policies)
        return J(goal, (logits[0], experts), policy)

    return jax.value_and_grad(loss)(logits)


def gradient(goal):
    """J and its gradient with respect to the logits (expert's, policy's), as a compiled function."""
    return partial(run, J_and_gradient, goal)


@jax.jit
def bc(logits, trajectories):
    return behavioural_cloning(*read(logits, trajectories)).value


PARTS = {
    part: lambda goal, arrays, part=part: jax.vmap(partial(part, objective_of(goal)))(
        *read(*arrays)
    )
    for part in (
        expert_objective,
        policy_objective,
        summed_differences,
        start_value,
    )
}


def per_trajectory(part, goal, arrays):
    """A part of J of every trajectory of a batch."""
    return np.asarray(run(PARTS[part], goal, arrays))


@partial(jax.jit, static_argnames=("part", "structure"))
def divergence_part(part, structure, row, alpha, arrays):
    """The same, for the divergence at index `row`; one program serves every divergence."""
    goal = goals_of(structure)[0]._replace(alpha=alpha)
    goal = objective_of(goal, exact.traced_divergence(row, goal.t_max))
    return jax.vmap(partial(part, goal))(*read(*arrays))
