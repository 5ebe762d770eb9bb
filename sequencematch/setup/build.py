"""From a configuration to the parts of a run."""

from functools import partial
from typing import NamedTuple

import grain
import jax
import optax
from flax import nnx
from ml_collections import ConfigDict

from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import WEIGHTINGS, Objective, without_noise_steps
from sequencematch.core.rewards import NEXT_VALUES, TERMINALS, bound_value
from sequencematch.data import pipeline
from sequencematch.data.checks import check_examples
from sequencematch.data.noise import Noise
from sequencematch.data.task import Task
from sequencematch.data.tasks import load_task
from sequencematch.data.tokenizer import BKSPC, BOS, EOS, PAD, CharTokenizer
from sequencematch.evaluate.generate import Generator
from sequencematch.evaluate.values import Returns
from sequencematch.models.sharding import state_shardings
from sequencematch.models.transformer import Transformer
from sequencematch.setup.defaults import effective_objective, network_config
from sequencematch.train import mesh as meshes
from sequencematch.train.methods import METHODS
from sequencematch.train.optimizer import learning_rate, make_optimizer
from sequencematch.train.plan import Phase, Plan, compile_steps
from sequencematch.train.state import Recipe, TrainState, initial_state


class Parts(NamedTuple):
    """The parts that one configuration makes, before any array exists.

    Attributes:
      config: what made it.
      task, tokenizer: the examples and their alphabet.
      data: checksum of the examples.
      recipe: what a training step closes over.
      mesh: the devices.
      initial: () -> the first training state, made where it will live.
      like: shapes and places of that state.
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
        """T, slots of a trajectory."""
        return self.config.prompt_slots + self.config.max_actions

    @property
    def parameters(self) -> int:
        """Number of parameters of the network."""
        return sum(x.size for x in jax.tree.leaves(self.like.params))


def build(config: ConfigDict) -> Parts:
    """Loads the task and lays out the network; trains nothing yet.

    Raises:
      ValueError, OSError: one line on what is wrong with the configuration, the data or the devices.
    """
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
    task = load_task(config.task, config.data)
    tokenizer = CharTokenizer(task.alphabet, tuple(config.edits))
    T = config.prompt_slots + config.max_actions
    data = check_examples(
        task,
        tokenizer,
        prompt_slots=config.prompt_slots,
        max_actions=config.max_actions,
        answer_actions=config.evaluate.max_actions,
    )
    sizes = network_config(config, tokenizer.vocab_size)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Transformer(sizes, nnx.Rngs(0))))
    recipe = make_recipe(config, graph, make_mdp(config, tokenizer))
    initial = partial(initial_state, sizes, recipe, capacity=config.rollout.capacity, slots=T)
    shapes = jax.eval_shape(initial)
    shardings = state_shardings(mesh, shapes)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    initial = jax.jit(initial, out_shardings=shardings)
    return Parts(config, task, tokenizer, data, recipe, mesh, initial, like)


def make_mdp(config: ConfigDict, tokenizer: CharTokenizer) -> Mdp:
    """The action set of the method: never `<pad>` or `<bos>`, the edits only if it has any."""
    return mdp.make(
        tokenizer.vocab_size,
        eos=EOS,
        pad=PAD,
        never=[BOS, BKSPC, *tokenizer.pops],
        edits=tokenizer.pops if METHODS[config.method].edits else {},
    )


def make_objective(config: ConfigDict) -> Objective:
    """J as the configuration and the method have it."""
    c = effective_objective(config)
    following = NEXT_VALUES[c.next_value]
    weighting = WEIGHTINGS[c.weighting]
    return Objective(
        divergence=DIVERGENCES[c.divergence],
        alpha=c.alpha,
        gamma=c.gamma,
        policy_weight=c.policy_weight,
        weighting=without_noise_steps(weighting) if config.noise.step == "skip" else weighting,
        terminal=TERMINALS[c.terminal],
        next_value=bound_value(c.alpha, c.gamma, following) if c.bound else following,
        t_max=c.t_max,
    )


def make_recipe(config: ConfigDict, graph: nnx.GraphDef, decisions: Mdp) -> Recipe:
    """What the training step closes over."""
    c, method, steps = config, METHODS[config.method], config.train.steps
    objective = make_objective(config)
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


def make_plan(run: Parts) -> Plan:
    """The phases of the method, and what happens how often."""
    c, samples, method = run.config, run.recipe.samples, METHODS[run.config.method]
    shardings = jax.tree.map(lambda x: x.sharding, run.like)
    steps, refresh = compile_steps(run.recipe, run.mesh, shardings)
    own = c.train.batch_size * (1 + run.recipe.hard_negatives)
    names = {"imitation": "bc" if method.edits else "mle", "matching": c.method}
    ends = [c.train.bc_steps, c.train.steps][-len(method.phases) :]
    phases = []
    for step, until in zip(method.phases, ends, strict=True):
        drawn = samples if step == "matching" else 0
        name = names.get(step, step)
        phases.append(Phase(name, steps[step], until, drawn > 0, own + drawn))
    return Plan(
        phases=phases,
        refresh=refresh,
        slots=run.slots,
        refresh_every=c.rollout.every,
        refresh_rows=c.rollout.rows,
        log_every=c.log_every,
        evaluate_every=c.evaluate.every,
        save_every=c.checkpoint.every,
        skip_nonfinite=c.train.skip_nonfinite,
        batch_sharding=meshes.batch_sharding(run.mesh),
    )


def training_data(run: Parts) -> tuple[grain.MapDataset, grain.MapDataset]:
    """(batches of episodes, batches of prompts); element i of each is for step i."""
    c = run.config
    kind = c.noise.kind if METHODS[c.method].edits else "none"
    episodes = pipeline.episodes(
        run.task,
        run.tokenizer,
        "train",
        batch_size=c.train.batch_size,
        slots=run.slots,
        noise=Noise(kind, c.noise.eta, c.noise.run, c.noise.step),
        seed=c.seed,
    )
    # Another seed: else each refresh would complete the prompts of the step's own batch.
    prompts = pipeline.prompts(
        run.task,
        run.tokenizer,
        "train",
        batch_size=c.rollout.rows,
        prompt_slots=c.prompt_slots,
        seed=c.seed ^ 0x5A5A5A5A,
    )
    return episodes, prompts


def make_generator(run: Parts) -> Generator:
    """Answers the task's questions with the run's parameters."""
    c = run.config
    return Generator(
        run.recipe.graph,
        run.recipe.mdp,
        run.task,
        run.tokenizer,
        prompt_slots=c.prompt_slots,
        max_actions=c.evaluate.max_actions,
        rows=c.evaluate.rows,
        seed=c.seed,
        edit_bias=c.evaluate.edit_bias,
    )


def make_returns(run: Parts) -> Returns:
    """Recovered returns of the answers to the task's questions."""
    c = run.config
    return Returns(
        run.recipe.graph,
        run.recipe.mdp,
        run.tokenizer,
        slots=c.prompt_slots + c.evaluate.max_actions,
        rows=c.evaluate.rows,
        objective=run.recipe.objective,
    )
