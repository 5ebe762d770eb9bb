"""What a training step closes over (`Recipe`), and what it changes (`TrainState`)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, ArrayLike, Int

from sequencematch.core.keys import Purpose, random_key
from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import Objective
from sequencematch.models.network import Network
from sequencematch.models.transformer import with_whole_ends
from sequencematch.rollout import replay
from sequencematch.rollout.noise import RolloutNoise
from sequencematch.rollout.replay import ReplayBuffer
from sequencematch.train import guard
from sequencematch.train.guard import Guard

MakeNetwork = Callable[[nnx.Rngs], Network]

# Layout of a saved `TrainState`; versions before 0.2.0 say none, and had one entry for each layer.
FORMAT = 2


class Settings(NamedTuple):
    """The numbers of a run that are arguments of its compiled steps.

    Runs that differ only here share their programs, so one compilation serves a grid of runs.

    Attributes:
      seed: uint32; all randomness in a step is a function of (seed, step).
      alpha: scale of the reward.
      gamma: discount.
      learning_rate: its peak.
      beta_end: weight of imitation against J that would be that of the step after the last.
    """

    seed: ArrayLike
    alpha: ArrayLike
    gamma: ArrayLike
    learning_rate: ArrayLike
    beta_end: ArrayLike


class Recipe(NamedTuple):
    """The ingredients of a step, made of `Settings` and of what is fixed when it is compiled.

    Attributes:
      graph: the network without its parameters.
      frozen: the parameters that are not trained; empty where all are.
      mdp: the decision process.
      optimizer: the update rule.
      learning_rate: step -> learning rate, for the metrics.
      objective: J; its gamma also defines the reward statistics of methods that do not train on it.
      beta: step -> weight of imitation against J (SequenceMatch, Algorithm 1).
      samples: policy episodes in each matching step; 0 for an objective that needs none.
      max_actions: limit on the decisions of a sampled episode.
      hard_negatives: whether wrong tokens of the noise are drawn from the current policy.
      rollout_noise: the noise of sampled episodes; None for none.
      seed: uint32; all randomness in a step is a function of (seed, step).
      parts: into how many parts a batch is divided, to bound the memory of a step.
      rows: how rows that pass through the network are divided among the devices.
    """

    graph: nnx.GraphDef
    frozen: nnx.State
    mdp: Mdp
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    objective: Objective
    beta: optax.Schedule
    samples: int
    max_actions: int
    hard_negatives: bool
    rollout_noise: RolloutNoise | None
    seed: ArrayLike
    parts: int
    rows: NamedSharding

    def network(self, params: nnx.State) -> Network:
        """The network with these trained parameters."""
        return with_whole_ends(nnx.merge(self.graph, params, self.frozen))


class TrainState(NamedTuple):
    """All that changes in training; exactly what a checkpoint has to hold to resume bit for bit.

    Attributes:
      step: int32, steps done; also the index of the next batch.
      params: the parameters that are trained.
      opt_state: the optimiser's state.
      replay: the replay buffer; None for a run that draws no samples.
      guard: counts of steps that were skipped because they were not finite.
    """

    step: Int[Array, ""]
    params: nnx.State
    opt_state: optax.OptState
    replay: ReplayBuffer | None
    guard: Guard


def init_parameters(make: MakeNetwork, seed: ArrayLike) -> nnx.State:
    """The parameters of a freshly initialised network, trained and frozen ones.

    A pure function of the seed: jitted with shardings, it makes each array on its devices.
    """
    # Adapters draw from a stream of their own, so that the rest is as without them.
    key, lora = (random_key(seed, Purpose.INITIALIZATION, i) for i in range(2))
    return nnx.state(make(nnx.Rngs(key, lora=lora)))


def split_parameters(
    is_frozen: Callable[[tuple], bool], params: nnx.State
) -> tuple[nnx.State, nnx.State]:
    """Divides parameters into (trained, frozen).

    Args:
      is_frozen: says of the path of a parameter, such as ("embedding", "embedding"), whether it is
        frozen.
      params: all parameters.
    """
    frozen, trained = nnx.split_state(params, lambda path, _: is_frozen(path), ...)
    return trained, frozen


def initial_state(params: nnx.State, recipe: Recipe, *, capacity: int, slots: int) -> TrainState:
    """The state before the first step.

    Args:
      params: the parameters to train.
      recipe: its optimiser, and whether samples are drawn.
      capacity: samples that the replay buffer holds.
      slots: T, slots of a sample.
    """
    # Without samples there is no buffer, neither in memory nor in checkpoints.
    buffer = replay.empty_buffer(capacity, slots) if recipe.samples else None
    opt_state = recipe.optimizer.init(params)
    return TrainState(jnp.int32(0), params, opt_state, buffer, guard.init())
