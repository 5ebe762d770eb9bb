"""Builds everything that one configuration describes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.keys import Purpose, host_seed
from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import WEIGHTINGS, Objective, without_noise_steps
from sequencematch.core.rewards import NEXT_VALUES, TERMINALS, bound_value
from sequencematch.data import pipeline
from sequencematch.data.checks import DataFacts
from sequencematch.data.episodes import clean_ids
from sequencematch.data.noise import Noise
from sequencematch.data.pipeline import Prefetched
from sequencematch.data.task import Task
from sequencematch.data.tokenizer import Tokenizer
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.metrics import Metric, check_metrics, task_metrics
from sequencematch.models.sharding import state_shardings
from sequencematch.models.transformer import Transformer
from sequencematch.setup.defaults import effective_objective, network_config
from sequencematch.setup.examples import load_data, load_saved
from sequencematch.train import mesh as meshes
from sequencematch.train.methods import METHODS
from sequencematch.train.optimizer import learning_rate, make_optimizer
from sequencematch.train.plan import Phase, Plan, compile_steps
from sequencematch.train.state import (
    MakeNetwork,
    Recipe,
    Settings,
    TrainState,
    initial_state,
)


class Parts(NamedTuple):
    """Everything that one configuration makes, before any array exists.

    Attributes:
      config: the configuration.
      task, tokenizer: the examples and the ids of their texts.
      data: what one pass over the examples has found, their checksum with it.
      metrics: what is measured of answers.
      make: settings -> what a training step closes over.
      settings: those of the configuration.
      mesh: the devices.
      initial: () -> the first train state, created on the devices it is sharded over.
      like: shapes, dtypes and shardings of that state.
    """

    config: ConfigDict
    task: Task
    tokenizer: Tokenizer
    data: DataFacts
    metrics: Sequence[Metric]
    make: Callable[[Settings], Recipe]
    settings: Settings
    mesh: Mesh
    initial: Callable[[], TrainState]
    like: TrainState

    @property
    def recipe(self) -> Recipe:
        """What a training step closes over, at the configuration's settings."""
        return self.make(self.settings)

    @property
    def slots(self) -> int:
        """T, number of slots of a trajectory."""
        return self.config.prompt_slots + self.config.max_actions

    @property
    def parameters(self) -> int:
        """Number of parameters of the network."""
        return sum(x.size for x in jax.tree.leaves(self.like.params))


def build(config: ConfigDict, folder: Path | None = None) -> Parts:
    """Loads the task and works out the network's shapes; allocates no parameters.

    Args:
      config: a configuration that `check_config` has accepted.
      folder: of a run that keeps its task, to be asked for answers; None to load the data.

    Raises:
      ValueError, OSError: the configuration, the data or the devices do not fit; says what in one line.
    """
    # The mesh first: it is cheap to check, and preparing data may take minutes.
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
    task, tokenizer, data = load_data(config) if folder is None else load_saved(config, folder)
    T = config.prompt_slots + config.max_actions
    metrics = make_metrics(task, tokenizer)
    make_network = network_maker(config, task, tokenizer)
    # Shapes only. The arrays are created by `initial`, jitted, so that each device makes its own shard.
    graph, _ = nnx.split(nnx.eval_shape(lambda: make_network(nnx.Rngs(0))))
    make = partial(make_recipe, config, graph, make_mdp(config, tokenizer), mesh)
    settings = make_settings(config)

    def initial(settings: Settings) -> TrainState:
        recipe = make(settings)
        return initial_state(make_network, recipe, capacity=config.rollout.capacity, slots=T)

    shapes = jax.eval_shape(initial, settings)
    shardings = state_shardings(mesh, shapes)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    initial = partial(jax.jit(initial, out_shardings=shardings), settings)
    return Parts(config, task, tokenizer, data, metrics, make, settings, mesh, initial, like)


def network_maker(config: ConfigDict, task: Task, tokenizer: Tokenizer) -> MakeNetwork:
    """What makes the network, which knows edits as the last ids.

    Raises:
      ValueError: the tokenizer's edits are other ids.
    """
    V, edits = tokenizer.vocab_size, sorted(tokenizer.pops)
    if edits != [*range(V - len(edits), V)]:
        raise ValueError(f"the ids of edits must be the last of {V}, but they are {edits}")
    if task.network:
        return partial(task.network, V - len(edits), len(edits))
    return partial(Transformer, network_config(config, V, len(edits)))


def make_metrics(task: Task, tokenizer: Tokenizer) -> list[Metric]:
    """What the task measures of answers, tried on the first test example and its completion.

    Raises:
      ValueError: there is no such metric, or it fails.
    """
    metrics, example = task_metrics(task), task.splits["test"][0]
    actions, text = clean_ids(tokenizer, example), example.completion
    right = not example.cut and task.check(example, text)
    check_metrics(task, metrics, Answer(example, actions, text, right, not example.cut))
    return metrics


def make_mdp(config: ConfigDict, tokenizer: Tokenizer) -> Mdp:
    """The decision process: actions are ordinary tokens, `<eos>`, and edits if the method has them."""
    edits = tokenizer.pops if METHODS[config.method].edits else {}
    actions = {*tokenizer.ordinary, tokenizer.eos, *edits}
    return mdp.make(
        tokenizer.vocab_size,
        eos=tokenizer.eos,
        pad=tokenizer.pad,
        # Such as `<bos>`, and the edits of methods that have none.
        never=[i for i in range(tokenizer.vocab_size) if i not in actions and i != tokenizer.pad],
        edits=edits,
    )


def make_settings(config: ConfigDict) -> Settings:
    """The numbers of a configuration and its method that compiled steps take as arguments."""
    objective, rate = effective_objective(config), config.optimizer.learning_rate
    alpha, gamma = objective.alpha, objective.gamma
    return Settings(np.uint32(config.seed), alpha, gamma, rate, config.train.beta_end)


def make_objective(config: ConfigDict, settings: Settings) -> Objective:
    """The objective J (docs/mathematics.md, sections 2 to 4) of a configuration and its method."""
    c = effective_objective(config)
    next_value, weighting = NEXT_VALUES[c.next_value], WEIGHTINGS[c.weighting]
    if c.bound:
        next_value = bound_value(settings.alpha, settings.gamma, next_value)
    if config.noise.step == "skip":
        weighting = without_noise_steps(weighting)
    return Objective(
        divergence=DIVERGENCES[c.divergence],
        alpha=settings.alpha,
        gamma=settings.gamma,
        policy_weight=c.policy_weight,
        weighting=weighting,
        terminal=TERMINALS[c.terminal],
        next_value=next_value,
        t_max=c.t_max,
    )


def make_recipe(
    config: ConfigDict, graph: nnx.GraphDef, decisions: Mdp, mesh: Mesh, settings: Settings
) -> Recipe:
    """What the training step closes over."""
    c, method, steps = config, METHODS[config.method], config.train.steps
    objective, rate = make_objective(config, settings), settings.learning_rate
    # beta falls linearly from 1 after the imitation phase. Methods of one phase may have
    # bc_steps >= steps; they do not use this schedule, but optax needs a positive length.
    annealed = optax.linear_schedule(
        1.0, settings.beta_end, max(steps - c.train.bc_steps, 1), c.train.bc_steps
    )
    return Recipe(
        graph=graph,
        mdp=decisions,
        optimizer=make_optimizer(c.optimizer, steps, rate),
        learning_rate=learning_rate(c.optimizer, steps, rate),
        objective=objective,
        beta=annealed if method.clones else optax.constant_schedule(0.0),
        samples=c.rollout.batch_size if method.matches and objective.needs_samples else 0,
        max_actions=c.max_actions,
        hard_negatives=method.edits and c.noise.kind == "policy",
        seed=settings.seed,
        parts=c.train.accumulate,
        rows=meshes.batch_sharding(mesh),
    )


def make_plan(parts: Parts) -> Plan:
    """The phases of the method, and how often the run logs, samples, validates and saves."""
    c, recipe, method = parts.config, parts.recipe, METHODS[parts.config.method]
    shardings = jax.tree.map(lambda x: x.sharding, parts.like)
    steps, refresh = compile_steps(parts.make, parts.settings, parts.mesh, shardings)
    # Rows of the batch that pass through the network: hard negatives take one more forward pass.
    own = c.train.batch_size * (1 + recipe.hard_negatives)
    names = {"imitation": "bc" if method.edits else "mle", "matching": c.method}
    # A method of one phase runs it to the end of training, and bc_steps plays no part.
    ends = [c.train.bc_steps, c.train.steps][-len(method.phases) :]
    phases = []
    for step, until in zip(method.phases, ends, strict=True):
        drawn = recipe.samples if step == "matching" else 0
        name = names.get(step, step)
        phases.append(Phase(name, steps[step], until, drawn > 0, own + drawn))
    return Plan(
        phases=phases,
        refresh=refresh,
        slots=parts.slots,
        refresh_every=c.rollout.every,
        refresh_rows=c.rollout.rows,
        log_every=c.log_every,
        evaluate_every=c.evaluate.every,
        save_every=c.checkpoint.every,
        skip_nonfinite=c.train.skip_nonfinite,
        batch_sharding=meshes.batch_sharding(parts.mesh),
    )


def training_data(parts: Parts) -> tuple[Prefetched, Prefetched]:
    """Returns (batches of episodes, batches of prompts); element i of each is for step i."""
    c = parts.config
    kind = c.noise.kind if METHODS[c.method].edits else "none"
    episodes = pipeline.episodes(
        parts.task,
        parts.tokenizer,
        "train",
        batch_size=c.train.batch_size,
        slots=parts.slots,
        noise=Noise(kind, c.noise.eta, c.noise.run, c.noise.step),
        seed=host_seed(c.seed, Purpose.EPISODES),
    )
    # A seed of their own: otherwise each refresh would complete the prompts of the step's own batch.
    prompts = pipeline.prompts(
        parts.task,
        parts.tokenizer,
        "train",
        batch_size=c.rollout.rows,
        prompt_slots=c.prompt_slots,
        seed=host_seed(c.seed, Purpose.PROMPTS),
    )
    return Prefetched(episodes), Prefetched(prompts, c.rollout.every)
