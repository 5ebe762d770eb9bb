"""Where C telescopes, taking all of it on the data changes the variance of J, not its expectation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.likelihood import behavioural_cloning
from sequencematch.core.objective import Objective, sequencematch
from sequencematch.core.trajectory import build_trajectory
from sequencematch.models import readout
from tests import oracles
from tests.core.batches import EXPERT, GOALS, POLICY, objective_of, read
from tests.test_own_parts import BagOfWords

BOS, EOS, V = 1, 2, 12
ACTIONS = mdp.make(V, eos=EOS, pad=0, never=[BOS], edits={3: 1})
PROMPT, ANSWER, BATCHES, ROWS = 3, 3, 24, 4
GOAL = Objective(DIVERGENCES["chi2_mixture"], alpha=0.01, gamma=0.9)


def split_cost(objective, w, expert, policy):
    """J as it was: w of C on the policy's trajectories, though both sums are of V(s_0)."""

    def start_values(values, trajectories):
        return jnp.take_along_axis(values.v, trajectories.start[:, None], axis=1)

    scale = expert[1].end.shape[0] / policy[1].end.shape[0]
    moved = jnp.sum(start_values(*expert)) - scale * jnp.sum(start_values(*policy))
    mean = sequencematch(objective, expert, policy)
    return mean._replace(total=mean.total + w * moved).value


def trajectories(prompts, answers, imitate):
    """Answers of one length without noise: every batch has the same number of imitated steps."""
    rows = [
        oracles.lay_out_episode(
            [int(x) for x in p], [*a, EOS], [*a, EOS], slots=9, filler=EOS, imitate=imitate
        )
        for p, a in zip(prompts, answers, strict=True)
    ]
    return jax.vmap(partial(build_trajectory, ACTIONS))(oracles.stack_episodes(rows))


@pytest.fixture(scope="module")
def batches():
    """Batches of data and of samples; both sides go through the same prompts, in other orders."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(4, V, size=(BATCHES * ROWS, PROMPT))
    prompts[:, 0] = BOS
    # Data are predictable from the prompt, samples are not.
    data = (prompts[:, 1:2] + prompts[:, 2:] + np.arange(ANSWER)) % (V - 4) + 4
    samples, order = rng.integers(4, V, size=data.shape), rng.permutation(len(prompts))
    whole = trajectories(prompts, data, True), trajectories(prompts[order], samples, False)
    rows = [slice(i * ROWS, (i + 1) * ROWS) for i in range(BATCHES)]
    return [[jax.tree.map(lambda x, r=r: x[r], side) for side in whole] for r in rows]


def values_of(graph, params, trajectories):
    model = nnx.merge(graph, params)
    hidden = readout.states(model, trajectories)
    return readout.action_values(model, ACTIONS, hidden, trajectories)


def clone(graph, params, data, steps=150):
    """Parameters after some steps of behavioural cloning, as SequenceMatch begins with."""
    optimizer = optax.adam(3e-3)

    def step(_, carry):
        params, moments = carry
        grads = jax.grad(lambda p: behavioural_cloning(values_of(graph, p, data), data).value)(
            params
        )
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments

    run = jax.jit(partial(jax.lax.fori_loop, 0, steps, step))
    return run((params, optimizer.init(params)))[0]


def gradients(batches, network):
    """[BATCHES, parameters] of each estimator: (w = 1/2 as it was, all of C on the data)."""
    graph, params = nnx.split(network)

    def loss(estimator, params, expert, policy):
        return estimator(GOAL, *((values_of(graph, params, t), t) for t in (expert, policy)))

    def flat(estimator):
        gradient = jax.jit(jax.grad(partial(loss, estimator)))
        leaves = [jax.tree.leaves(gradient(params, *batch)) for batch in batches]
        return np.stack([np.concatenate([np.ravel(x) for x in each]) for each in leaves])

    return flat(lambda goal, e, p: split_cost(goal, 0.5, e, p)), flat(
        lambda *batch: sequencematch(*batch).value
    )


@pytest.mark.parametrize("goal", GOALS)
def test_split_cost_equals_the_oracle(goal):
    pairs = read(*EXPERT.arrays), read(*POLICY.arrays)
    w = goal.w if goal.weighting == "discounted" and not goal.skip else 0.0
    found = split_cost(objective_of(goal), w, *pairs)
    if goal.weighting == "discounted" and not goal.skip:
        expected = oracles.split_cost_sequencematch(goal, list(EXPERT.cases), list(POLICY.cases))
    else:
        expected = oracles.sequencematch(goal, list(EXPERT.cases), list(POLICY.cases))
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.stress
def test_expectation_of_the_gradient_is_the_same(batches):
    """The mean over batches, since both sides go through all prompts once."""
    split, all_on_data = gradients(batches, BagOfWords(V, 0, nnx.Rngs(0)))
    size = np.abs(all_on_data.mean(0)).max()
    np.testing.assert_allclose(split.mean(0), all_on_data.mean(0), atol=1e-5 * size)


@pytest.mark.stress
def test_variance_of_the_gradient_is_smaller(batches, transformer):
    graph, params = nnx.split(transformer)
    data = jax.tree.map(lambda *x: jnp.concatenate(x), *(batch[0] for batch in batches))
    cloned = nnx.merge(graph, clone(graph, params, data))
    split, all_on_data = (each.var(0).sum() for each in gradients(batches, cloned))
    assert all_on_data < 0.8 * split
