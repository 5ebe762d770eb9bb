"""One training step of each phase of Algorithm 1, as pure functions of (state, batch).

Axes: B expert episodes, T slots, D model, V vocabulary.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from sequencematch.core.hard_negatives import replace_wrong_tokens, wrong_logits
from sequencematch.core.keys import Purpose, random_key
from sequencematch.core.likelihood import behavioural_cloning, unlikelihood
from sequencematch.core.objective import sequencematch
from sequencematch.core.reductions import Mean
from sequencematch.core.trajectory import build_trajectory
from sequencematch.core.types import Episode, Trajectory, Values
from sequencematch.models import readout
from sequencematch.rollout import replay, sampler
from sequencematch.rollout.decoding import draw
from sequencematch.train import guard
from sequencematch.train.accumulation import Loss, accumulate_gradients
from sequencematch.train.state import Recipe, TrainState
from sequencematch.train.statistics import (
    Metrics,
    Statistics,
    describe,
    distance_from_mle,
    policy_statistics,
)


class Rows(NamedTuple):
    """What one step learns from, whole or a part of it; every array has a leading axis of rows.

    Attributes:
      number: int32[B], numbers of the expert's rows in the batch.
      expert: episodes of the data.
      policy: samples drawn from the replay buffer; None if the objective needs none.
      ages: int32, their ages in steps; None likewise.
    """

    number: Int[Array, " B"]
    expert: Episode
    policy: Trajectory | None = None
    ages: Int[Array, " samples"] | None = None


def imitation_step(recipe: Recipe, state: TrainState, batch: Episode) -> tuple[TrainState, Metrics]:
    """Descends BC = -1/n sum log pi(a_t|s_t): `mle`, `bc`, and the first phase of SequenceMatch.

    Args:
      recipe: what the step closes over.
      state: the train state before the step.
      batch: B expert episodes.
    """

    def loss(params: nnx.State, rows: Rows) -> tuple[Mean, Statistics]:
        expert = expert_trajectories(recipe, state, rows)
        values = action_values(recipe, params, expert)
        bc = behavioural_cloning(values, expert)
        statistics = describe(values, expert, recipe.objective)
        statistics |= distance_from_mle(recipe.objective, (values, expert))
        return bc, {"bc": bc, **statistics}

    return update(recipe, state, loss, number_rows(batch))


def unlikelihood_step(
    recipe: Recipe, state: TrainState, batch: Episode
) -> tuple[TrainState, Metrics]:
    """Descends BC plus the unlikelihood of tokens that the text already has (Welleck et al. 2020).

    Args:
      recipe: what the step closes over.
      state: the train state before the step.
      batch: B expert episodes.
    """

    def loss(params: nnx.State, rows: Rows) -> tuple[Mean, Statistics]:
        expert = expert_trajectories(recipe, state, rows)
        model = recipe.network(params)
        # One pass through the network; both terms of the loss are read from its hidden states.
        hidden = readout.states(model, expert, recipe.max_actions)
        values = readout.action_values(model, recipe.mdp, hidden, expert)
        repeated = readout.log_unlikelihood(model, recipe.mdp, hidden, expert)
        bc = behavioural_cloning(values, expert)
        statistics = describe(values, expert, recipe.objective)
        statistics |= distance_from_mle(recipe.objective, (values, expert))
        return unlikelihood(values, repeated, expert), {"bc": bc, **statistics}

    return update(recipe, state, loss, number_rows(batch))


def matching_step(recipe: Recipe, state: TrainState, batch: Episode) -> tuple[TrainState, Metrics]:
    """Descends L = beta BC - (1-beta) J (SequenceMatch, Algorithm 1).

    Args:
      recipe: what the step closes over.
      state: the train state before the step; its replay buffer must hold samples if J needs them.
      batch: B expert episodes.
    """
    objective, beta = recipe.objective, recipe.beta(state.step)

    def loss(params: nnx.State, rows: Rows) -> tuple[Mean, Statistics]:
        expert = expert_trajectories(recipe, state, rows)
        values = action_values(recipe, params, expert)
        statistics, samples = describe(values, expert, objective), None
        if rows.policy is not None:
            samples = (action_values(recipe, params, rows.policy), rows.policy)
            statistics |= policy_statistics(recipe.mdp, *samples, rows.ages, objective)
        statistics |= distance_from_mle(objective, (values, expert), samples)
        bc = behavioural_cloning(values, expert)
        J = sequencematch(objective, (values, expert), samples)
        L = Mean(beta * bc.total - (1 - beta) * J.total, bc.count)
        return L, {"bc": bc, "objective": J, **statistics}

    rows = number_rows(batch)
    if recipe.samples:
        # Drawn outside the loss: the values of samples are differentiated, the sampling is not.
        policy, ages = draw_samples(recipe, state)
        rows = rows._replace(policy=policy, ages=ages)
    state, metrics = update(recipe, state, loss, rows)
    return state, metrics | {"beta": beta}


def refresh(
    recipe: Recipe, state: TrainState, prompts: Int[Array, "B P"], start: Int[Array, " B"]
) -> TrainState:
    """Samples completions from the current policy into the replay buffer.

    Args:
      recipe: what the step closes over.
      state: the train state; its parameters are the policy.
      prompts: int32[B, P], prompt tokens.
      start: int32[B], slot of the last token of each prompt.
    """
    # At temperature 1 and without truncation or bias: J's expectations are under rho_pi itself.
    how = sampler.Sampling(recipe.max_actions, noise=recipe.rollout_noise)
    model, key = recipe.network(state.params), random_key(recipe.seed, Purpose.ROLLOUT, state.step)
    final = sampler.sample(model, recipe.mdp, prompts, start, key, how)
    episodes = sampler.episodes(recipe.mdp, final)
    samples = jax.vmap(partial(build_trajectory, recipe.mdp))(episodes)
    return state._replace(replay=replay.add(state.replay, samples, state.step))


def action_values(recipe: Recipe, params: nnx.State, trajectories: Trajectory) -> Values:
    """Q(s_t, a_t) and V(s_t) of every step of a batch, [B, T]."""
    model = recipe.network(params)
    hidden = readout.states(model, trajectories, recipe.max_actions)
    return readout.action_values(model, recipe.mdp, hidden, trajectories)


# Phase name in `methods.METHODS` -> its step.
STEPS = {
    "imitation": imitation_step,
    "unlikelihood": unlikelihood_step,
    "matching": matching_step,
}


def number_rows(batch: Episode) -> Rows:
    """The expert's rows of a step, with their numbers."""
    return Rows(jnp.arange(batch.end.shape[0]), batch)


def expert_trajectories(recipe: Recipe, state: TrainState, rows: Rows) -> Trajectory:
    """The expert's rows as trajectories; hard negatives are drawn from the current policy."""
    expert = jax.vmap(partial(build_trajectory, recipe.mdp))(rows.expert)
    if not recipe.hard_negatives:
        return expert
    key = random_key(recipe.seed, Purpose.NOISE, state.step)
    # One pass over the batch with its placeholders: before a first wrong token a state holds clean text
    # only, so it is the same as after they are replaced. No gradient: a loss has its own parameters.
    model = recipe.network(state.params)

    def draw_wrong(logits: Array, right: Array, key: Array) -> Array:
        return draw(key, wrong_logits(recipe.mdp, logits, right))

    def read(hidden: Array, time: Array, right: Array, row: Array) -> Array:
        # A key for each row and time: draws do not depend on how the batch is divided.
        fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
        keys = fold_in(jax.vmap(jax.random.fold_in, (None, 0))(key, row), time)
        return jax.vmap(jax.vmap(draw_wrong))(model.logits(hidden), right, keys)

    hidden = readout.states(model, expert, recipe.max_actions)
    z = readout.map_states(
        read, model, recipe.mdp, hidden, expert, expert.actions, rows=rows.number
    )
    return jax.vmap(partial(replace_wrong_tokens, recipe.mdp))(expert, z)


def draw_samples(recipe: Recipe, state: TrainState) -> tuple[Trajectory, Int[Array, " samples"]]:
    """Trajectories drawn from the replay buffer, and their ages in steps."""
    key = random_key(recipe.seed, Purpose.REPLAY, state.step)
    drawn = replay.draw(state.replay, key, recipe.samples, state.step)
    # Without this, all the work on what is drawn would be done on every device.
    return jax.lax.with_sharding_constraint(drawn, recipe.rows)


def update(recipe: Recipe, state: TrainState, loss: Loss, rows: Rows) -> tuple[TrainState, Metrics]:
    """One step of the optimiser down the gradient of `loss`; a step that is not finite is skipped."""
    value, gradients, metrics = accumulate_gradients(loss, state.params, rows, recipe.parts)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    metrics |= {
        "loss": value,
        # Before clipping: it overflows to infinity where the loss may still be finite.
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
        # The optimiser's own count does not advance in a skipped step, so nor does its schedule.
        "learning_rate": recipe.learning_rate(state.step - state.guard.skipped),
    }
    good = guard.is_finite(metrics)
    counts = guard.count_step(state.guard, good)
    metrics |= {"skipped": counts.skipped, "skipped_in_a_row": counts.in_a_row}
    # Selected on the device: the host need not wait for each step to see whether it was good.
    new = optax.apply_updates(state.params, updates), opt_state
    params, opt_state = guard.select(good, new, (state.params, state.opt_state))
    # `step` advances even if the step is skipped: the next batch is another one.
    return TrainState(state.step + 1, params, opt_state, state.replay, counts), metrics
