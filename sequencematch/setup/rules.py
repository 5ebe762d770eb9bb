"""What each key of a configuration may be, and what pairs of keys must be to each other."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import WEIGHTINGS
from sequencematch.core.rewards import NEXT_VALUES, TERMINALS
from sequencematch.data.noise import NOISE_STEPS, WRONG_TOKENS
from sequencematch.data.tokenizer import EDITS
from sequencematch.setup.defaults import effective_objective, flat
from sequencematch.train.methods import METHODS

Rule = tuple[str, Callable[[Any], bool]]

KINDS = {
    bool: "True or False",
    int: "an integer",
    float: "a finite float32 number",
    str: "a text",
}

TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
LARGEST = {float: HUGE, int: 2**63 - 1}  # what may stand for a float32; jax takes no larger integer

# Steps and ids of rows are int32 on the devices.
count: Rule = ("in [1, 2**31)", lambda x: 1 <= x < 2**31)
whole: Rule = ("in [0, 2**31)", lambda x: 0 <= x < 2**31)
positive: Rule = ("> 0", lambda x: x > 0)
natural: Rule = (">= 0", lambda x: x >= 0)
share: Rule = ("in [0, 1]", lambda x: 0 <= x <= 1)
below_one: Rule = ("in [0, 1)", lambda x: 0 <= x < 1)

# 1 - b is divided by, in float32.
decay: Rule = ("in [0, 1), as a float32", lambda x: 0 <= np.float32(x) < 1)
seed: Rule = ("in [0, 2**32)", lambda x: 0 <= x < 2**32)


def one_of(names: Mapping | tuple) -> Rule:
    """A name of a table."""
    return "one of " + ", ".join(names), lambda x: x in names


def some_of(names: Mapping | tuple) -> Rule:
    """Names of a table, one or more, each once."""
    return "some of " + ", ".join(
        names
    ), lambda x: len(x) == len(set(x)) > 0 and set(x) <= set(names)


def is_path(text: str) -> bool:
    """Whether a text can be a path: what follows a ~ must be a user."""
    return "\0" not in text and not os.path.expanduser(text).startswith("~")


def is_place(text: str) -> bool:
    """Whether a folder is there, or nothing is in its way."""
    if not is_path(text):
        return False
    place = os.path.abspath(os.path.expanduser(text))
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return os.path.isdir(place)


RULES: dict[str, Rule] = {
    "method": one_of(METHODS),
    "seed": seed,
    "data.dir": ("a folder, there or to be made", is_place),
    "data.source": one_of(("generator", "tfds")),
    "data.path": ("a path", is_path),
    "data.module": ("letters and digits and _", str.isidentifier),
    "data.bases": ("in 2..16", lambda bases: all(b in range(2, 17) for b in bases)),
    # Numbers of entropy 100 have about as many digits: beyond, making them takes for ever.
    "data.entropy": (
        "a range (low, high), 0 <= low <= high <= 100",
        lambda e: len(e) == 2 and 0 <= e[0] <= e[1] <= 100,
    ),
    "data.train": count,
    "data.validation": count,
    "data.test": count,
    "data.seed": seed,
    "prompt_slots": ("in [2, 2**31)", lambda x: 2 <= x < 2**31),
    "max_actions": count,
    "edits": some_of(EDITS),
    "noise.kind": one_of(WRONG_TOKENS),
    "noise.eta": below_one,
    "noise.run": below_one,
    "noise.step": one_of(NOISE_STEPS),
    # Each is traced and compiled by itself.
    "model.layers": ("in [1, 1000]", lambda x: 1 <= x <= 1000),
    "model.d_model": count,
    "model.heads": count,
    "model.kv_heads": count,
    "model.d_ff": count,
    "model.rope_base": (">= 1", lambda x: x >= 1),
    "model.dtype": one_of(("float32", "bfloat16")),
    "optimizer.learning_rate": positive,
    "optimizer.warmup": whole,
    "optimizer.final": share,
    "optimizer.weight_decay": natural,
    "optimizer.b1": decay,
    "optimizer.b2": decay,
    "optimizer.clip": positive,
    "train.steps": count,
    "train.batch_size": count,
    "train.bc_steps": whole,
    "train.beta_end": share,
    "train.skip_nonfinite": whole,
    "objective.divergence": one_of(DIVERGENCES),
    "objective.alpha": positive,
    "objective.gamma": ("in (0, 1), as a float32", lambda x: 0 < np.float32(x) < 1),
    "objective.policy_weight": share,
    "objective.weighting": one_of(WEIGHTINGS),
    "objective.terminal": one_of(TERMINALS),
    "objective.next_value": one_of(NEXT_VALUES),
    "objective.t_max": ("> 1, as a float32", lambda x: np.float32(x) > 1),
    # alpha is four times as much.
    "objective.td_weight": ("> 0, and 4 of it a float32", lambda x: 0 < x <= HUGE / 4),
    "rollout.every": count,
    "rollout.rows": count,
    "rollout.capacity": count,
    "rollout.batch_size": count,
    "mesh.data": count,
    "mesh.model": count,
    "log_every": count,
    "evaluate.every": count,
    "evaluate.examples": count,
    "evaluate.rows": count,
    "evaluate.max_actions": count,
    "evaluate.traces": whole,
    "checkpoint.every": count,
    "checkpoint.keep": count,
    "checkpoint.keep_every": whole,
}


def relations(config: ConfigDict) -> Iterator[tuple[bool, str]]:
    """(what must hold, what to say if it does not) of keys that depend on each other."""
    c, objective = config, effective_objective(config)
    yield (
        c.train.bc_steps < c.train.steps or not METHODS[c.method].clones,
        f"config.train.bc_steps={c.train.bc_steps} must be less than "
        f"config.train.steps={c.train.steps}: nothing would be left for method={c.method}",
    )
    yield (
        c.optimizer.warmup < c.train.steps,
        f"config.optimizer.warmup={c.optimizer.warmup} must be less than "
        f"config.train.steps={c.train.steps}",
    )
    yield (
        WEIGHTINGS[objective.weighting].telescopes
        or objective.policy_weight == 0
        or objective.divergence == "chi2_mixture",
        f"config.objective.weighting={objective.weighting!r} with policy_weight > 0 needs "
        f"divergence='chi2_mixture', not {objective.divergence!r}: nothing else bounds V on the "
        "policy's steps",
    )
    yield (
        c.noise.kind != "policy" or c.noise.run == 0,
        f"config.noise.run={c.noise.run} must be 0 with noise.kind='policy': a second wrong token "
        "would be drawn at a state that one pass does not see",
    )
    yield (
        c.noise.kind != "policy" or c.noise.step != "imitate",
        "config.noise.step='imitate' does not go with noise.kind='policy': a wrong token drawn anew "
        "is not the one that is imitated",
    )
    yield (
        c.noise.step != "skip" or not _pays_for_values(c.method, objective),
        f"config.noise.step='skip' with method={c.method} needs objective.policy_weight=0 (it is "
        f"{objective.policy_weight}) and a divergence without samples (it is "
        f"{objective.divergence!r}): else J pays for V at the states that wrong tokens lead to",
    )
    yield (
        set(c.edits) == {"<reset>"} or ("<bkspc>" in c.edits and "<reset>" not in c.edits),
        f"config.edits={c.edits!r} must be '<reset>' alone, or have '<bkspc>' and no '<reset>'",
    )
    yield (
        c.rollout.rows <= c.rollout.capacity,
        f"config.rollout.rows={c.rollout.rows} must be at most "
        f"config.rollout.capacity={c.rollout.capacity}",
    )
    refreshes = -(-c.train.steps // c.rollout.every)
    yield (
        c.rollout.rows * refreshes < 2**31,
        f"config.rollout.rows={c.rollout.rows} in {refreshes} refreshes are more episodes than an "
        "int32 counts: raise config.rollout.every",
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


def _pays_for_values(method: str, objective: ConfigDict) -> bool:
    """Whether a method that shows noise has policy terms in its J."""
    sampled = DIVERGENCES[objective.divergence].psi is not None or objective.policy_weight > 0
    return METHODS[method].edits and METHODS[method].matches and sampled


def _divides(config: ConfigDict, part: str, whole: str) -> tuple[bool, str]:
    values = flat(config)
    message = f"config.{whole}={values[whole]} must be a multiple of config.{part}={values[part]}"
    return values[whole] % values[part] == 0, message
