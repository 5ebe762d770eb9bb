"""Builds everything that one configuration describes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sequencematch.core.keys import Purpose, host_seed
from sequencematch.data import pipeline
from sequencematch.data.checks import DataFacts
from sequencematch.data.episodes import clean_ids
from sequencematch.data.pipeline import Prefetched
from sequencematch.data.task import Task
from sequencematch.data.tokenizer import Tokenizer
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.metrics import Metric, check_metrics, task_metrics
from sequencematch.models.lora import byte_count, parameter_count
from sequencematch.models.sharding import TRANSFORMER, WHOLE
from sequencematch.models.transformer import Transformer
from sequencematch.setup import parameters
from sequencematch.setup.defaults import flatten, has_edits, network_config
from sequencematch.setup.examples import load_data, load_saved, training_noise
from sequencematch.setup.machine import compute_exactly
from sequencematch.setup.network_flops import forward_flops, training_flops
from sequencematch.setup.parameters import add_adapters, on_devices, split, where, without_adapters
from sequencematch.setup.recipe import make_mdp, make_recipe, make_rollout_noise, make_settings
from sequencematch.train import mesh as meshes
from sequencematch.train.methods import METHODS
from sequencematch.train.plan import Batches, Phase, Plan, compile_steps
from sequencematch.train.state import (
    MakeNetwork,
    Recipe,
    Settings,
    TrainState,
    init_parameters,
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
      draw: () -> all parameters of a new network, created on the devices they are sharded over.
      base: shapes, dtypes and shardings of the parameters without adapters, all in floats, as a
        pretrained model is read.
      adapt: such parameters -> all parameters of the network, with new adapters where it has some.
      begin: parameters to train, which it takes over -> the train state before the first step.
      like: shapes, dtypes and shardings of that state.
      frozen: the parameters that are not trained; shapes, until there are arrays.
    """

    config: ConfigDict
    task: Task
    tokenizer: Tokenizer
    data: DataFacts
    metrics: Sequence[Metric]
    make: Callable[[Settings], Recipe]
    settings: Settings
    mesh: Mesh
    draw: Callable[[], nnx.State]
    base: nnx.State
    adapt: Callable[[nnx.State], nnx.State]
    begin: Callable[[nnx.State], TrainState]
    like: TrainState
    frozen: nnx.State

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
        """Number of parameters of the network, adapters included."""
        return parameter_count((self.like.params, self.frozen))

    @property
    def trained_parameters(self) -> int:
        """Number of parameters that are trained."""
        return parameter_count(self.like.params)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters, on all devices together."""
        return byte_count((self.like.params, self.frozen))

    def split(self, params: nnx.State) -> tuple[nnx.State, nnx.State]:
        """Divides all parameters of the network into (trained, frozen)."""
        return split(self.config, params)

    def with_frozen(self, params: nnx.State) -> "Parts":
        """These parts, with the arrays that are not trained; `params` are all of the network's."""
        return self._replace(frozen=self.split(params)[1])

    def whole(self, params: nnx.State) -> nnx.State:
        """All parameters of the network: these, which are trained, and the frozen ones."""
        return nnx.merge_state(params, self.frozen)

    def initial(self) -> TrainState:
        """The state before the first step, with new parameters."""
        return self.begin(self.split(self.draw())[0])


def build(config: ConfigDict, folder: Path | None = None) -> Parts:
    """Loads the task and works out the network's shapes; allocates no parameters.

    Args:
      config: a configuration that `check_config` has accepted.
      folder: of a run that keeps its task, to be asked for answers; None to load the data.

    Raises:
      ValueError, OSError: the configuration, the data or the devices do not fit; says what in one line.
    """
    compute_exactly(config)
    # The mesh first: it is cheap to check, and preparing data may take minutes.
    mesh = meshes.make_mesh(**config.mesh)
    task, tokenizer, data = load_data(config) if folder is None else load_saved(config, folder)
    T = config.prompt_slots + config.max_actions
    metrics = make_metrics(task, tokenizer)
    make_network = network_maker(config, task, tokenizer, mesh)
    # Shapes only. The arrays are created by jitted functions, so that each device makes its own shard.
    graph, shapes = nnx.split(nnx.eval_shape(lambda: make_network(nnx.Rngs(0))))
    table = WHOLE if task.network else TRANSFORMER
    noise = make_rollout_noise(config, task, tokenizer)
    make = partial(
        make_recipe, config, graph, make_mdp(config, tokenizer), mesh, rollout_noise=noise
    )
    settings, params = make_settings(config), on_devices(mesh, shapes, table)
    parameters.check_patterns(config, params)
    trained, frozen = split(config, params)

    def begin(params: nnx.State) -> TrainState:
        return initial_state(params, make(settings), capacity=config.rollout.capacity, slots=T)

    like = on_devices(mesh, jax.eval_shape(begin, trained), table)
    draw = jax.jit(partial(init_parameters, make_network), out_shardings=where(params))
    return Parts(
        config=config,
        task=task,
        tokenizer=tokenizer,
        data=data,
        metrics=metrics,
        make=make,
        settings=settings,
        mesh=mesh,
        draw=partial(draw, settings.seed),
        base=without_adapters(config, mesh, shapes, table),
        adapt=partial(add_adapters, config, make_network, settings.seed),
        begin=jax.jit(begin, out_shardings=where(like), donate_argnums=0),
        like=like,
        frozen=frozen,
    )


def network_maker(config: ConfigDict, task: Task, tokenizer: Tokenizer, mesh: Mesh) -> MakeNetwork:
    """What makes the network, which knows edits as the last ids.

    Raises:
      ValueError: the tokenizer's edits are other ids, or the task's own network is to be another.
    """
    V, edits = tokenizer.vocab_size, sorted(tokenizer.pops)
    if edits != [*range(V - len(edits), V)]:
        raise ValueError(f"the ids of edits must be the last of {V}, but they are {edits}")
    if task.network:
        whole = {"mesh.fsdp": 1, "mesh.model": 1, "model.lora_rank": 0}
        for key, only in (whole | {"model.path": "", "model.preset": ""}).items():
            if (found := flatten(config)[key]) != only:
                raise ValueError(
                    f"config.{key}={found!r} must be {only!r}: the task brings a network of its own"
                )
        return partial(task.network, V - len(edits), len(edits))
    network = network_config(config, V, len(edits))
    return partial(Transformer, network, mesh=mesh)


def make_metrics(task: Task, tokenizer: Tokenizer) -> list[Metric]:
    """What the task measures of answers, tried on the first test example and its completion.

    Raises:
      ValueError: there is no such metric, or it fails.
    """
    metrics, example = task_metrics(task), task.splits["test"][0]
    actions, text = clean_ids(tokenizer, example), example.completion
    right = not example.cut and bool(task.check(example, text))
    answer = Answer(example, actions, text, right, not example.cut, len(actions), edits=0)
    check_metrics(task, metrics, answer)
    return metrics


def make_plan(parts: Parts) -> Plan:
    """The phases of the method, and how often the run logs, samples, validates and saves."""
    c, recipe, method = parts.config, parts.recipe, METHODS[parts.config.method]
    steps, refresh = compile_steps(
        parts.make, parts.settings, parts.frozen, parts.mesh, where(parts.like)
    )
    # Rows of the batch that pass through the network: hard negatives take one more forward pass.
    own = c.train.batch_size * (1 + recipe.hard_negatives)
    names = {"imitation": "bc" if has_edits(c) else "mle", "matching": c.method}
    # A method of one phase runs it to the end of training, and bc_steps plays no part.
    ends = [c.train.bc_steps, c.train.steps][-len(method.phases) :]
    phases = []
    for step, until in zip(method.phases, ends, strict=True):
        drawn = recipe.samples if step == "matching" else 0
        name = names.get(step, step)
        flops = step_flops(parts, drawn)
        phases.append(Phase(name, steps[step], until, drawn > 0, own + drawn, flops))
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


def step_flops(parts: Parts, drawn: int) -> int:
    """FLOPs of a step on `drawn` samples besides its batch; 0 for a network that a task brings."""
    if parts.task.network:
        return 0
    c, tokenizer = parts.config, parts.tokenizer
    network = network_config(c, tokenizer.vocab_size, len(tokenizer.pops))
    shape = (parts.slots, c.max_actions + 1)  # logits are read at the states of decisions
    flops = (c.train.batch_size + drawn) * training_flops(network, parts.like.params, *shape)
    # Hard negatives take one pass without gradients more.
    return flops + parts.recipe.hard_negatives * c.train.batch_size * forward_flops(network, *shape)


class Rows:
    """The rows of each batch that this process feeds.

    Args:
      shares: data set whose batches are the shares of the run's batches, in order.
      own: numbers of the shares of a batch that are this process' own.
      count: shares of a batch.
    """

    def __init__(self, shares: Batches, own: Sequence[int], count: int):
        self._shares, self._own, self._count = shares, own, count

    def __getitem__(self, index: int) -> Any:
        found = [self._shares[index * self._count + i] for i in self._own]
        return found[0] if len(found) == 1 else jax.tree.map(lambda *x: np.concatenate(x), *found)


def training_data(parts: Parts) -> tuple[Prefetched, Prefetched]:
    """Returns (batches of episodes, batches of prompts); element i of each is for step i.

    Of several processes each has the rows of its own devices. An example, its noise and its place are
    functions of its number, so that batches are the same on any number of processes.
    """
    c = parts.config
    own, count = meshes.own_shares(meshes.batch_sharding(parts.mesh))
    episodes = pipeline.episodes(
        parts.task,
        parts.tokenizer,
        "train",
        batch_size=c.train.batch_size // count,
        prompt_slots=c.prompt_slots,
        max_actions=c.max_actions,
        noise=training_noise(c),
        seed=host_seed(c.seed, Purpose.EPISODES),
    )
    # A seed of their own: otherwise each refresh would complete the prompts of the step's own batch.
    prompts = pipeline.prompts(
        parts.task,
        parts.tokenizer,
        "train",
        batch_size=max(c.rollout.rows // count, 1),  # few may do where no samples are drawn
        prompt_slots=c.prompt_slots,
        seed=host_seed(c.seed, Purpose.PROMPTS),
    )
    return (
        Prefetched(Rows(episodes, own, count)),
        Prefetched(Rows(prompts, own, count), c.rollout.every),
    )
