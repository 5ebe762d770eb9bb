"""One training step of each phase of Algorithm 1: pure functions of (state, batch).

Axes: B expert episodes, T slots, D model, V vocabulary.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from sequencematch.core import losses, masked, mdp, noise
from sequencematch.core.types import Episode, Trajectory, Values
from sequencematch.models.transformer import Transformer
from sequencematch.rollout import replay, sampler
from sequencematch.train.metrics import Metrics, describe, policy_statistics
from sequencematch.train.state import Recipe, TrainState, step_key

# Independent uses of chance within a step.
NOISE, REPLAY, ROLLOUT = range(3)


def imitation_step(recipe: Recipe, state: TrainState, batch: Episode) -> tuple[TrainState, Metrics]:
    """Maximum likelihood on the batch: `mle`, `bc`, and the first phase of SequenceMatch."""
    expert = _expert(recipe, state, batch)

    def loss(params: nnx.State) -> tuple[Array, Metrics]:
        values = action_values(recipe, params, expert)
        bc = losses.behavioural_cloning(values, expert)
        return bc, {"bc": bc, **describe(values, expert, recipe.objective.gamma)}

    return _update(recipe, state, loss)


def sequencematch_step(
    recipe: Recipe, state: TrainState, batch: Episode
) -> tuple[TrainState, Metrics]:
    """Descends L = beta BC - (1-beta) J (SequenceMatch, Algorithm 1)."""
    objective, beta = recipe.objective, recipe.beta(state.step)
    expert = _expert(recipe, state, batch)
    policy, ages = _policy(recipe, state)

    def loss(params: nnx.State) -> tuple[Array, Metrics]:
        values = action_values(recipe, params, expert)
        metrics, samples = describe(values, expert, objective.gamma), None
        if policy is not None:
            samples = (action_values(recipe, params, policy), policy)
            metrics |= policy_statistics(recipe.mdp, *samples, ages, objective.gamma)
        bc = losses.behavioural_cloning(values, expert)
        J = losses.sequencematch(objective, (values, expert), samples)
        return beta * bc - (1 - beta) * J, {"bc": bc, "objective": J, "beta": beta, **metrics}

    return _update(recipe, state, loss)


def refresh(
    recipe: Recipe, state: TrainState, prompts: Int[Array, "B P"], start: Int[Array, " B"]
) -> TrainState:
    """Samples completions from the current policy into the replay buffer.

    Temperature 1, no truncation, no bias: else they are not rho_pi.
    """
    episodes, _ = sampler.sample(
        nnx.merge(recipe.graph, state.params),
        recipe.mdp,
        prompts,
        start,
        step_key(recipe.seed, state.step, ROLLOUT),
        max_actions=recipe.max_actions,
    )
    return state._replace(replay=replay.add(state.replay, episodes, state.step))


def action_values(recipe: Recipe, params: nnx.State, trajectories: Trajectory) -> Values:
    """Q and V of every step, from one pass and a gather; logits [B, T, V] never exist at once."""
    model = nnx.merge(recipe.graph, params)
    states = _states(model, trajectories)

    def read(hidden: Array, actions: Array) -> Values:
        return masked.action_values(model.logits(hidden), actions, recipe.mdp.legal)

    return jax.vmap(partial(masked.in_chunks, read))(states, trajectories.actions)


def _states(model: Transformer, trajectories: Trajectory) -> Array:
    """Hidden state [B, T, D] that represents s_t, at each time t."""
    hidden = model(trajectories.tokens, trajectories.positions, trajectories.visible_until)
    return jnp.take_along_axis(hidden, trajectories.state[..., None], axis=1)


def _expert(recipe: Recipe, state: TrainState, batch: Episode) -> Trajectory:
    """The batch as trajectories, its wrong tokens redrawn from the policy if the noise asks so."""
    expert = jax.vmap(partial(mdp.trajectory, recipe.mdp))(batch)
    if not recipe.hard_negatives:
        return expert
    key = step_key(recipe.seed, state.step, NOISE)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch.end.shape[0]))
    model = nnx.merge(recipe.graph, jax.lax.stop_gradient(state.params))

    def redraw(trajectory: Trajectory, states: Array, key: Array) -> Trajectory:
        def draw(hidden: Array, right: Array, time: Array) -> Array:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, time)
            choose = partial(noise.wrong_token, recipe.mdp)
            return jax.vmap(choose)(model.logits(hidden), right, keys)

        time = jnp.arange(states.shape[0])
        z = masked.in_chunks(draw, states, trajectory.actions, time)
        return noise.redrawn(recipe.mdp, trajectory, z)

    return jax.vmap(redraw)(expert, _states(model, expert), keys)


def _policy(recipe: Recipe, state: TrainState) -> tuple[Trajectory | None, Array | None]:
    """Trajectories drawn from the replay buffer and their ages, if the objective needs any."""
    if not recipe.samples:
        return None, None
    key = step_key(recipe.seed, state.step, REPLAY)
    episodes, ages = replay.draw(state.replay, key, recipe.samples, state.step)
    return jax.vmap(partial(mdp.trajectory, recipe.mdp))(episodes), ages


def _update(
    recipe: Recipe, state: TrainState, loss: Callable[[nnx.State], tuple[Array, Metrics]]
) -> tuple[TrainState, Metrics]:
    """One step of the optimiser down the gradient of `loss`."""
    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    metrics |= {
        "loss": value,
        "gradient_norm": optax.global_norm(gradients),
        "learning_rate": recipe.learning_rate(state.step),
    }
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state, state.replay), metrics
