"""Which keys of a configuration have no effect, or another than they may seem to."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from sequencematch.data.tokenizer import EDITS
from sequencematch.setup.defaults import defaults, effective_objective
from sequencematch.setup.recipe import draws_samples, has_noise, make_objective, make_settings
from sequencematch.train.methods import METHODS

# Task -> the keys of `data` that no other task reads.
DATA_KEYS = {
    "arithmetic": ("source", "module", "bases", "entropy"),
    "countdown": ("numbers",),
    "jsonl": ("path", "validation_path", "test_path", "fields", "checker"),
    "text": ("corpus", "divider", "tokenizer", "separator", "window", "prompt", "test_share"),
}
UNSPLIT = ("jsonl", "text")  # tasks that do not read data.split


def describe_effects(config: ConfigDict) -> Iterator[str]:
    """Yields a sentence for each key that has no effect, or another than it may seem to."""
    yield from _data_effects(config)
    yield from _objective_effects(config)
    yield from _noise_effects(config)


def _data_effects(config: ConfigDict) -> Iterator[str]:
    c, usual, task = config.data, defaults().data, config.task
    if ":" in task:
        return  # what a task of your own reads is not known
    for owner, keys in DATA_KEYS.items():
        for key in keys if owner != task else ():
            if _to_tuple(c[key]) != _to_tuple(usual[key]):
                yield f"data.{key}={c[key]!r} has no effect: task={owner!r} reads it, not {task!r}"
    is_published = task == "arithmetic" and c.source == "tfds"
    if is_published and _to_tuple(c.entropy) != _to_tuple(usual.entropy):
        yield f"data.entropy={c.entropy!r} has no effect: published questions have their own"
    if task in UNSPLIT and c.split != usual.split:
        yield f"data.split={c.split!r} has no effect: task={task!r} knows of no twins"
    if task == "text" and config.model.path and c.tokenizer != usual.tokenizer:
        yield f"data.tokenizer={c.tokenizer!r} has no effect: the model in model.path has its own"
    if task == "text" and has_noise(config) and config.noise.kind == "ground_truth":
        yield "noise.kind='ground_truth' is 'random' here: in a text any token may be a wrong one"


def _to_tuple(value: Any) -> Any:
    """A list as a tuple: a config.json has no other; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def _objective_effects(config: ConfigDict) -> Iterator[str]:
    method, configured = METHODS[config.method], config.objective
    decided = {k: x for k, x in method.objective(configured).items() if configured[k] != x}
    if decided:
        what = ", ".join(f"objective.{name}={x!r}" for name, x in decided.items())
        yield f"method={config.method} takes {what}, whatever the configuration has"
    if configured.bound and method.matches:
        divergence = effective_objective(config).divergence
        if divergence != "chi2_mixture":
            yield (
                "objective.bound=True clips V(s') at the bound of chi2_mixture's rewards; those of "
                f"{divergence} may be larger"
            )
    weight = effective_objective(config).policy_weight
    objective = make_objective(config, make_settings(config))
    if method.matches and weight > 0 and objective.policy_share == 0:
        yield (
            f"objective.policy_weight={weight} has no effect with discounted weights: C is V(s_0), and "
            "all of it is taken on the data"
        )


def _noise_effects(config: ConfigDict) -> Iterator[str]:
    several = [edit for edit in config.edits if 1 < EDITS[edit] < EDITS["<reset>"]]
    if several and has_noise(config) and config.noise.run == 0:
        yield (
            f"no text shows {' or '.join(several)}: with noise.run=0 wrong tokens come one by one, and "
            "<bkspc> takes them back"
        )
    if config.rollout.noise and not draws_samples(config):
        yield "rollout.noise=True has no effect: no samples are drawn"
    elif config.rollout.noise and not has_noise(config):
        yield "rollout.noise=True has no effect: the data have no noise"
