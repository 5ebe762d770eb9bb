"""Every default once, and what a configuration must satisfy before any work starts."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.losses import WEIGHTINGS
from sequencematch.data.pipeline import WRONG
from sequencematch.models.config import TransformerConfig
from sequencematch.train.methods import METHODS


def defaults() -> ConfigDict:
    """All keys with their defaults; a file in configs/ changes the few that make its experiment."""
    return ConfigDict(
        dict(
            task="arithmetic",  # arithmetic, jsonl, or your own as "package.module:function"
            method="sequencematch",
            seed=0,
            data=dict(
                dir="~/.cache/sequencematch",  # prepared data sets
                source="generator",  # or "tfds": the published math_dataset (needs network)
                module="arithmetic__add_or_sub_in_base",
                bases=(10,),  # of 2..16; () for all, or where questions have none
                entropy=(2.0, 5.0),  # log10 of the number of possible operand pairs, a range
                train=20_000,
                validation=500,
                test=500,
                seed=0,
                path="",  # the file of task="jsonl"
            ),
            prompt_slots=34,  # <bos> and the longest prompt; T = prompt_slots + max_actions
            max_actions=12,  # decisions after the prompt, edits included
            noise=dict(
                kind="random",  # random, ground_truth, policy (hard negatives) or none
                eta=0.1,  # probability that a push goes wrong
                run=0.0,  # probability that another wrong token follows a wrong one
            ),
            model=dict(
                layers=4,
                d_model=128,
                heads=4,
                kv_heads=2,
                d_ff=256,
                rope_base=10_000.0,
                dtype="float32",
            ),
            optimizer=dict(
                learning_rate=2e-3,
                warmup=100,  # steps
                final=0.05,  # last learning rate, as a share of the peak
                weight_decay=0.1,
                b1=0.9,
                b2=0.98,
                clip=1.0,  # gradient norm
            ),
            train=dict(
                steps=2_000,
                batch_size=64,
                bc_steps=1_400,  # of them behavioural cloning, before sequencematch matches
                beta_end=0.2,  # weight of imitation at the end, from 1 at bc_steps
            ),
            objective=dict(
                divergence="chi2_mixture",
                alpha=0.01,  # scale of the reward
                gamma=0.9,  # discount
                policy_weight=0.5,  # w, share of the value cost on the policy's own steps
                weighting="discounted",
            ),
            rollout=dict(
                every=10,  # steps between refreshes of the replay buffer
                rows=64,  # episodes sampled at each
                capacity=512,  # episodes kept
                batch_size=64,  # episodes drawn for each step
            ),
            mesh=dict(data=1, model=1),
            log_every=20,
            evaluate=dict(
                every=500,  # steps between looks at the validation set
                examples=200,  # of the validation set, at each
                rows=250,  # answered at once
                max_actions=24,
                traces=20,  # examples of each kind kept for the report
            ),
            checkpoint=dict(every=500, keep=2),
        )
    )


Rule = tuple[str, Callable[[Any], bool]]

positive: Rule = ("> 0", lambda x: x > 0)
natural: Rule = (">= 0", lambda x: x >= 0)
share: Rule = ("in [0, 1]", lambda x: 0 <= x <= 1)
below_one: Rule = ("in [0, 1)", lambda x: 0 <= x < 1)
seed: Rule = ("in [0, 2**32)", lambda x: 0 <= x < 2**32)


def one_of(names: Mapping | tuple) -> Rule:
    """A name of a table."""
    return "one of " + ", ".join(names), lambda x: x in names


RULES: dict[str, Rule] = {
    "method": one_of(METHODS),
    "seed": seed,
    "data.source": one_of(("generator", "tfds")),
    "data.bases": ("in 2..16", lambda bases: all(b in range(2, 17) for b in bases)),
    "data.entropy": (
        "a range (low, high), 0 <= low <= high",
        lambda e: len(e) == 2 and 0 <= e[0] <= e[1],
    ),
    "data.train": positive,
    "data.validation": positive,
    "data.test": positive,
    "data.seed": seed,
    "prompt_slots": ("> 1", lambda x: x > 1),
    "max_actions": positive,
    "noise.kind": one_of(WRONG),
    "noise.eta": below_one,
    "noise.run": below_one,
    "model.layers": positive,
    "model.d_model": positive,
    "model.heads": positive,
    "model.kv_heads": positive,
    "model.d_ff": positive,
    "model.rope_base": positive,
    "model.dtype": one_of(("float32", "bfloat16")),
    "optimizer.learning_rate": positive,
    "optimizer.warmup": natural,
    "optimizer.final": share,
    "optimizer.weight_decay": natural,
    "optimizer.b1": below_one,
    "optimizer.b2": below_one,
    "optimizer.clip": positive,
    "train.steps": positive,
    "train.batch_size": positive,
    "train.bc_steps": natural,
    "train.beta_end": share,
    "objective.divergence": one_of(DIVERGENCES),
    "objective.alpha": positive,
    "objective.gamma": ("in (0, 1)", lambda x: 0 < x < 1),
    "objective.policy_weight": share,
    "objective.weighting": one_of(WEIGHTINGS),
    "rollout.every": positive,
    "rollout.rows": positive,
    "rollout.capacity": positive,
    "rollout.batch_size": positive,
    "mesh.data": positive,
    "mesh.model": positive,
    "log_every": positive,
    "evaluate.every": positive,
    "evaluate.examples": positive,
    "evaluate.rows": positive,
    "evaluate.max_actions": positive,
    "evaluate.traces": natural,
    "checkpoint.every": positive,
    "checkpoint.keep": positive,
}


def validate(config: ConfigDict) -> None:
    """Checks every key, and what keys must be to each other.

    Raises:
      ValueError: one line that names the key, what was given and what is allowed.
    """
    known, given = flat(defaults()), flat(config)
    for key in given:
        known_key(key, known)
    for key in known:
        if key not in given:
            raise ValueError(f"config.{key} is missing: start a configuration from defaults()")
    for key, (allowed, holds) in RULES.items():
        if not _satisfies(holds, given[key]):
            near = suggestion(given[key], allowed.removeprefix("one of ").split(", "))
            raise ValueError(f"config.{key}={given[key]!r} must be {allowed}{near}")
    for holds, message in relations(config):
        if not holds:
            raise ValueError(message)
    transformer(config, vocab_size=1)


def _satisfies(holds: Callable[[Any], bool], value: Any) -> bool:
    """Whether a rule holds; for a value of another kind it does not, and no number is endless."""
    try:
        return holds(value) and not (isinstance(value, float) and math.isinf(value))
    except TypeError:
        return False


def relations(config: ConfigDict) -> Iterator[tuple[bool, str]]:
    """(what must hold, what to say if it does not) of keys that depend on each other."""
    c = config
    yield (
        c.train.bc_steps < c.train.steps or not METHODS[c.method].matches,
        f"config.train.bc_steps={c.train.bc_steps} must be less than "
        f"config.train.steps={c.train.steps}: nothing would be left for method={c.method}",
    )
    yield (
        c.optimizer.warmup < c.train.steps,
        f"config.optimizer.warmup={c.optimizer.warmup} must be less than "
        f"config.train.steps={c.train.steps}",
    )
    yield (
        WEIGHTINGS[c.objective.weighting].telescopes
        or c.objective.policy_weight == 0
        or c.objective.divergence == "chi2_mixture",
        f"config.objective.weighting={c.objective.weighting!r} with policy_weight > 0 needs "
        f"divergence='chi2_mixture', not {c.objective.divergence!r}: nothing else bounds V on the "
        "policy's steps",
    )
    yield (
        c.noise.kind != "policy" or c.noise.run == 0,
        f"config.noise.run={c.noise.run} must be 0 with noise.kind='policy': a second wrong token "
        "would be drawn at a state that one pass does not see",
    )
    yield (
        c.rollout.rows <= c.rollout.capacity,
        f"config.rollout.rows={c.rollout.rows} must be at most "
        f"config.rollout.capacity={c.rollout.capacity}",
    )
    for key in ("train.batch_size", "rollout.rows", "rollout.batch_size"):
        yield _divides(c, "mesh.data", key)
    for key in ("model.d_model", "model.d_ff"):
        yield _divides(c, "mesh.model", key)
    yield (
        c.model.kv_heads * c.model.d_model // c.model.heads % c.mesh.model == 0,
        f"config.mesh.model={c.mesh.model} must divide the width of the keys, "
        "model.kv_heads * model.d_model / model.heads",
    )


def _divides(config: ConfigDict, part: str, whole: str) -> tuple[bool, str]:
    values = flat(config)
    message = f"config.{whole}={values[whole]} must be a multiple of config.{part}={values[part]}"
    return values[whole] % values[part] == 0, message


def transformer(config: ConfigDict, vocab_size: int) -> TransformerConfig:
    """The sizes of the network.

    Raises:
      ValueError: sizes do not divide.
    """
    return TransformerConfig(vocab_size=vocab_size, **config.model)


def flat(config: Mapping | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def known_key(key: str, known: Mapping) -> None:
    """Raises ValueError, with the nearest right spelling, for a key that is not there."""
    if key not in known:
        raise ValueError(f"config.{key} is no key of this configuration{suggestion(key, known)}")


def suggestion(word: Any, words: Any) -> str:
    """What was probably meant, or nothing."""
    near = difflib.get_close_matches(str(word), list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def differences(ours: Mapping | ConfigDict, theirs: Mapping | ConfigDict) -> list[str]:
    """`key: theirs -> ours` for every dotted key in which two configurations differ."""
    ours, theirs = flat(ours), flat(theirs)
    return [
        f"{key}: {theirs.get(key, 'missing')!r} -> {ours.get(key, 'missing')!r}"
        for key in sorted({*ours, *theirs})
        if ours.get(key, "missing") != theirs.get(key, "missing")
    ]
