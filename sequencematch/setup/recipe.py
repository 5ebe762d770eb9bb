"""What a training step closes over: the decision process, the objective, the optimiser."""

import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.mdp import Mdp
from sequencematch.core.objective import WEIGHTINGS, Objective, without_noise_steps
from sequencematch.core.rewards import NEXT_VALUES, TERMINALS, bound_value
from sequencematch.data.noise import WRONG_TOKENS
from sequencematch.data.task import Task
from sequencematch.data.tokenizer import Tokenizer
from sequencematch.rollout.noise import RolloutNoise
from sequencematch.setup.defaults import effective_objective, has_edits
from sequencematch.train import mesh as meshes
from sequencematch.train.methods import METHODS
from sequencematch.train.optimizer import learning_rate, make_optimizer
from sequencematch.train.state import Recipe, Settings


def make_mdp(config: ConfigDict, tokenizer: Tokenizer) -> Mdp:
    """The decision process: actions are ordinary tokens, `<eos>`, and edits if the method has them."""
    edits = tokenizer.pops if has_edits(config) else {}
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


def has_noise(config: ConfigDict) -> bool:
    """Whether wrong tokens are pushed into the training texts."""
    return has_edits(config) and config.noise.kind != "none" and config.noise.eta > 0


def draws_samples(config: ConfigDict) -> bool:
    """Whether a run trains on samples from the policy."""
    objective = make_objective(config, make_settings(config))
    return METHODS[config.method].matches and objective.needs_samples


def make_rollout_noise(config: ConfigDict, task: Task, tokenizer: Tokenizer) -> RolloutNoise | None:
    """The noise of samples, that of the data, if they have any; else None."""
    noise = config.noise
    if not (config.rollout.noise and has_noise(config) and draws_samples(config)):
        return None
    wrong = np.zeros(tokenizer.vocab_size, bool)
    wrong[list(WRONG_TOKENS[noise.kind](task, tokenizer))] = True
    return RolloutNoise(noise.eta, noise.run, None if noise.kind == "policy" else wrong)


def make_recipe(
    config: ConfigDict,
    graph: nnx.GraphDef,
    decisions: Mdp,
    mesh: Mesh,
    settings: Settings,
    rollout_noise: RolloutNoise | None = None,
) -> Recipe:
    """What the training step closes over."""
    c, method, steps = config, METHODS[config.method], config.train.steps
    objective, rate = make_objective(config, settings), settings.learning_rate
    # beta falls linearly from 1, at the first matching step, to what a step after the last would have.
    # Methods of one phase may have bc_steps >= steps; they do not use this schedule, but optax needs a
    # positive length.
    annealed = optax.linear_schedule(
        1.0, settings.beta_end, max(steps - c.train.bc_steps, 1), c.train.bc_steps
    )
    return Recipe(
        graph=graph,
        frozen=nnx.State({}),
        mdp=decisions,
        optimizer=make_optimizer(c.optimizer, steps, rate),
        learning_rate=learning_rate(c.optimizer, steps, rate),
        objective=objective,
        beta=annealed if method.clones else optax.constant_schedule(0.0),
        samples=c.rollout.batch_size if draws_samples(c) else 0,
        max_actions=c.max_actions,
        hard_negatives=has_noise(c) and c.noise.kind == "policy",
        rollout_noise=rollout_noise,
        seed=settings.seed,
        parts=c.train.accumulate,
        rows=meshes.batch_sharding(mesh),
    )
