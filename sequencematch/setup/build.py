"""Builds everything that one configuration describes."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import grain
import jax
import optax
from flax import nnx
from ml_collections import ConfigDict

from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.keys import Purpose, host_seed
from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import WEIGHTINGS, Objective, without_noise_steps
from sequencematch.core.rewards import NEXT_VALUES, TERMINALS, bound_value
from sequencematch.data import pipeline
from sequencematch.data.checks import check_examples
from sequencematch.data.noise import Noise
from sequencematch.data.task import Task
from sequencematch.data.tasks import load_task
from sequencematch.data.tokenizer import BOS, EOS, PAD, CharTokenizer
from sequencematch.evaluate.generate import Generator, make_decodings
from sequencematch.evaluate.values import Scorer
from sequencematch.models.config import TransformerConfig
from sequencematch.models.sharding import state_shardings
from sequencematch.models.transformer import Transformer
from sequencematch.rollout.decoding import Decoding
from sequencematch.setup.defaults import effective_objective, network_config
from sequencematch.train import mesh as meshes
from sequencematch.train.methods import METHODS
from sequencematch.train.optimizer import learning_rate, make_optimizer
from sequencematch.train.plan import Phase, Plan, compile_steps
from sequencematch.train.state import Recipe, TrainState, initial_state


class Parts(NamedTuple):
    """Everything that one configuration makes, before any array exists.

    Attributes:
      config: the configuration.
      task, tokenizer: the examples and the ids of their characters.
      data: checksum of the examples.
      recipe: what a training step closes over.
      mesh: the devices.
      initial: () -> the first train state, created on the devices it is sharded over.
      like: shapes, dtypes and shardings of that state.
    """

    config: ConfigDict
    task: Task
    tokenizer: CharTokenizer
    data: int
    recipe: Recipe
    mesh: jax.sharding.Mesh
    initial: jax.stages.Wrapped
    like: TrainState

    @property
    def slots(self) -> int:
        """T, number of slots of a trajectory."""
        return self.config.prompt_slots + self.config.max_actions

    @property
    def parameters(self) -> int:
        """Number of parameters of the network."""
        return sum(x.size for x in jax.tree.leaves(self.like.params))


def build(config: ConfigDict) -> Parts:
    """Loads the task and works out the network's shapes; allocates no parameters.

    Args:
      config: a configuration that `check_config` has accepted.

    Raises:
      ValueError, OSError: the configuration, the data or the devices do not fit; says what in one line.
    """
    # The mesh first: it is cheap to check, and preparing data may take minutes.
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
    task = load_task(config.task, config.data)
    make_tokenizer = task.tokenizer or partial(CharTokenizer, task.alphabet)
    tokenizer = make_tokenizer(tuple(config.edits))
    T = config.prompt_slots + config.max_actions
    data = check_examples(
        task,
        tokenizer,
        prompt_slots=config.prompt_slots,
        max_actions=config.max_actions,
        answer_actions=config.evaluate.max_actions,
    )
    make_network = partial(Transformer, network_sizes(config, tokenizer))
    # Shapes only. The arrays are created by `initial`, jitted, so that each device makes its own shard.
    graph, _ = nnx.split(nnx.eval_shape(lambda: make_network(nnx.Rngs(0))))
    recipe = make_recipe(config, graph, make_mdp(config, tokenizer))
    initial = partial(
        initial_state, make_network, recipe, capacity=config.rollout.capacity, slots=T
    )
    shapes = jax.eval_shape(initial)
    shardings = state_shardings(mesh, shapes)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    initial = jax.jit(initial, out_shardings=shardings)
    return Parts(config, task, tokenizer, data, recipe, mesh, initial, like)


def network_sizes(config: ConfigDict, tokenizer: CharTokenizer) -> TransformerConfig:
    """The sizes of the network, which knows edits as the last ids.

    Raises:
      ValueError: the tokenizer's edits are other ids.
    """
    V, edits = tokenizer.vocab_size, sorted(tokenizer.pops)
    if edits != [*range(V - len(edits), V)]:
        raise ValueError(f"the ids of edits must be the last of {V}, but they are {edits}")
    return network_config(config, V, len(edits))


def make_mdp(config: ConfigDict, tokenizer: CharTokenizer) -> Mdp:
    """The decision process: `<pad>` and `<bos>` are illegal, and so are edits that the method lacks."""
    has_edits = METHODS[config.method].edits
    return mdp.make(
        tokenizer.vocab_size,
        eos=EOS,
        pad=PAD,
        never=[BOS, *({} if has_edits else tokenizer.pops)],
        edits=tokenizer.pops if has_edits else {},
    )


def make_objective(config: ConfigDict) -> Objective:
    """The objective J (docs/mathematics.md, sections 2 to 4) of a configuration and its method."""
    c = effective_objective(config)
    next_value, weighting = NEXT_VALUES[c.next_value], WEIGHTINGS[c.weighting]
    if c.bound:
        next_value = bound_value(c.alpha, c.gamma, next_value)
    if config.noise.step == "skip":
        weighting = without_noise_steps(weighting)
    return Objective(
        divergence=DIVERGENCES[c.divergence],
        alpha=c.alpha,
        gamma=c.gamma,
        policy_weight=c.policy_weight,
        weighting=weighting,
        terminal=TERMINALS[c.terminal],
        next_value=next_value,
        t_max=c.t_max,
    )


def make_recipe(config: ConfigDict, graph: nnx.GraphDef, decisions: Mdp) -> Recipe:
    """What the training step closes over."""
    c, method, steps = config, METHODS[config.method], config.train.steps
    objective = make_objective(config)
    # beta falls linearly from 1 after the imitation phase. Methods of one phase may have
    # bc_steps >= steps; they do not use this schedule, but optax needs a positive length.
    annealed = optax.linear_schedule(
        1.0, c.train.beta_end, max(steps - c.train.bc_steps, 1), c.train.bc_steps
    )
    return Recipe(
        graph=graph,
        mdp=decisions,
        optimizer=make_optimizer(c.optimizer, steps),
        learning_rate=learning_rate(c.optimizer, steps),
        objective=objective,
        beta=annealed if method.clones else optax.constant_schedule(0.0),
        samples=c.rollout.batch_size if method.matches and objective.needs_samples else 0,
        max_actions=c.max_actions,
        hard_negatives=method.edits and c.noise.kind == "policy",
        seed=c.seed,
    )


def make_plan(parts: Parts) -> Plan:
    """The phases of the method, and how often the run logs, samples, validates and saves."""
    c, samples, method = parts.config, parts.recipe.samples, METHODS[parts.config.method]
    shardings = jax.tree.map(lambda x: x.sharding, parts.like)
    steps, refresh = compile_steps(parts.recipe, parts.mesh, shardings)
    # Rows of the batch that pass through the network: hard negatives take one more forward pass.
    own = c.train.batch_size * (1 + parts.recipe.hard_negatives)
    names = {"imitation": "bc" if method.edits else "mle", "matching": c.method}
    # A method of one phase runs it to the end of training, and bc_steps plays no part.
    ends = [c.train.bc_steps, c.train.steps][-len(method.phases) :]
    phases = []
    for step, until in zip(method.phases, ends, strict=True):
        drawn = samples if step == "matching" else 0
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


def training_data(parts: Parts) -> tuple[grain.MapDataset, grain.MapDataset]:
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
    return episodes, prompts


def make_generator(
    parts: Parts, decodings: Mapping[str, Decoding | None] | None = None
) -> Generator:
    """The generator of answers to the task's prompts, for validation and evaluation.

    Args:
      parts: the parts of the run.
      decodings: the ways to answer, by name; by default those of the configuration.
    """
    c = parts.config
    return Generator(
        parts.recipe.graph,
        parts.recipe.mdp,
        parts.task,
        parts.tokenizer,
        prompt_slots=c.prompt_slots,
        max_actions=c.evaluate.max_actions,
        rows=c.evaluate.rows,
        seed=c.seed,
        decodings=configured_decodings(parts) if decodings is None else decodings,
    )


def configured_decodings(parts: Parts) -> dict[str, Decoding]:
    """The ways to answer (docs/mathematics.md, section 7), by name."""
    c = parts.config.evaluate
    return make_decodings(
        parts.recipe.mdp,
        threshold=c.edit_threshold,
        bias=c.edit_bias,
        temperature=c.temperature,
        memory=c.memory,
    )


def make_scorer(parts: Parts) -> Scorer:
    """The computation of recovered returns of generated answers (docs/mathematics.md, section 4)."""
    c = parts.config
    return Scorer(
        parts.recipe.graph,
        parts.recipe.mdp,
        parts.tokenizer,
        slots=c.prompt_slots + c.evaluate.max_actions,
        rows=c.evaluate.rows,
        objective=parts.recipe.objective,
    )
