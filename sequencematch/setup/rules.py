"""The allowed values of each configuration key, and the relations that must hold between keys."""

from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import WEIGHTINGS
from sequencematch.core.rewards import NEXT_VALUES, TERMINALS
from sequencematch.data.noise import NOISE_STEPS, WRONG_TOKENS
from sequencematch.data.splits import SPLITS
from sequencematch.data.tokenizer import EDITS
from sequencematch.models.attention import ATTENTION
from sequencematch.models.layers import KERNELS
from sequencematch.models.pretrained.presets import PRESETS
from sequencematch.models.transformer import REMAT
from sequencematch.setup.defaults import (
    PRECISION,
    defaults,
    effective_objective,
    flatten,
    network_config,
)
from sequencematch.setup.values import (
    Rule,
    can_be_folder,
    count,
    count_or_zero,
    decay,
    fraction,
    fraction_below_one,
    is_path,
    is_pattern,
    non_negative,
    one_of,
    positive,
    seed,
    some_of,
)
from sequencematch.train.methods import METHODS

TYPE_NAMES = {
    bool: "True or False",
    int: "an integer",
    float: "a finite float32 number",
    str: "a string",
}

TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
LARGEST = {
    float: HUGE,
    int: 2**63 - 1,
}  # of the types that may stand for a float32, as jax takes them

RULES: dict[str, Rule] = {
    "method": one_of(METHODS),
    "seed": seed,
    "data.dir": ("a folder that exists or can be created", can_be_folder),
    "data.source": one_of(("generator", "tfds")),
    "data.path": ("a path", is_path),
    "data.module": ("an identifier of letters, digits and _", str.isidentifier),
    "data.bases": ("in 2..16", lambda bases: all(b in range(2, 17) for b in bases)),
    # Entropy is log10 of the number of operand pairs, so at 100 the numbers have about 100 digits;
    # generating longer ones takes too long.
    "data.entropy": (
        "a range (low, high), 0 <= low <= high <= 100",
        lambda e: len(e) == 2 and 0 <= e[0] <= e[1] <= 100,
    ),
    # With five, finding what can be made of them takes ten minutes for 30,000 problems.
    "data.numbers": ("in [2, 4]", lambda x: 2 <= x <= 4),
    "data.train": count,
    "data.validation": count,
    "data.test": count,
    "data.seed": seed,
    "data.split": one_of(SPLITS),
    "prompt_slots": ("in [2, 2**31)", lambda x: 2 <= x < 2**31),
    "max_actions": count,
    "edits": some_of(EDITS),
    "noise.kind": one_of(WRONG_TOKENS),
    "noise.eta": fraction_below_one,
    "noise.run": fraction_below_one,
    "noise.step": one_of(NOISE_STEPS),
    # The initial parameters of each layer are drawn on their own.
    "model.preset": (
        "'' or one of " + ", ".join(PRESETS),
        lambda name: name == "" or name in PRESETS,
    ),
    "model.layers": ("in [1, 1000]", lambda x: 1 <= x <= 1000),
    "model.d_model": count,
    "model.heads": count,
    "model.kv_heads": count,
    "model.d_ff": count,
    "model.rope_base": (">= 1", lambda x: x >= 1),
    "model.dtype": one_of(("auto", "float32", "bfloat16")),
    "model.attention": one_of(ATTENTION),
    "model.remat": one_of(REMAT),
    "model.lora_rank": count_or_zero,
    "model.lora_alpha": positive,
    "model.lora_targets": ("a regular expression", is_pattern),
    "model.lora_base": one_of(KERNELS),
    "optimizer.learning_rate": positive,
    "optimizer.warmup": count_or_zero,
    "optimizer.final": fraction,
    "optimizer.weight_decay": non_negative,
    "optimizer.b1": decay,
    "optimizer.b2": decay,
    "optimizer.clip": positive,
    "train.steps": count,
    "train.batch_size": count,
    "init": ("'' or 'run:DIR'", lambda x: x == "" or (x.startswith("run:") and len(x) > 4)),
    "train.accumulate": count,
    "train.bc_steps": count_or_zero,
    "train.beta_end": fraction,
    "train.frozen": ("a regular expression", is_pattern),
    "train.unfrozen": ("a regular expression", is_pattern),
    "train.skip_nonfinite": count_or_zero,
    "objective.divergence": one_of(DIVERGENCES),
    "objective.alpha": positive,
    "objective.gamma": ("in (0, 1), as a float32", lambda x: 0 < np.float32(x) < 1),
    "objective.policy_weight": fraction,
    "objective.weighting": one_of(WEIGHTINGS),
    "objective.terminal": one_of(TERMINALS),
    "objective.next_value": one_of(NEXT_VALUES),
    "objective.t_max": ("> 1, as a float32", lambda x: np.float32(x) > 1),
    # iql_offline sets alpha to 4 td_weight.
    "objective.td_weight": ("> 0, and 4 times it a finite float32", lambda x: 0 < x <= HUGE / 4),
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
    "evaluate.edit_threshold": ("in (0, 1)", lambda x: 0 < x < 1),
    "evaluate.temperature": positive,
    "evaluate.samples": count,
    "evaluate.traces": count_or_zero,
    "checkpoint.every": count,
    "checkpoint.keep": count,
    "checkpoint.keep_every": count_or_zero,
}


def relations(config: ConfigDict) -> Iterator[tuple[bool, str]]:
    """Yields (what must hold, the message if it does not) for keys that depend on each other."""
    yield from _network_relations(config)
    yield from _training_relations(config)
    yield from _noise_relations(config)
    yield from _rollout_relations(config)
    yield from _mesh_relations(config)


def _network_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    own = defaults().model
    free = {"preset", *PRECISION, *(key for key in own if key.startswith("lora_"))}
    changed = [key for key in own if key not in free and c.model[key] != own[key]]
    yield (
        not c.model.preset or not changed,
        f"config.model.preset={c.model.preset!r} has sizes of its own, so that none can be set: leave "
        f"out {', '.join(f'config.model.{key}' for key in changed)}",
    )
    network, slots = network_config(c, vocab_size=1), c.prompt_slots + c.max_actions
    yield (
        network.positions != "learned" or slots <= network.context,
        f"config.prompt_slots + max_actions = {slots} is more than the {network.context} positions of "
        f"model.preset={c.model.preset!r}",
    )


def _training_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    objective = effective_objective(c)
    yield (
        c.train.bc_steps < c.train.steps or not METHODS[c.method].clones,
        f"config.train.bc_steps={c.train.bc_steps} must be less than "
        f"config.train.steps={c.train.steps}: no steps would be left for method={c.method}",
    )
    yield (
        c.optimizer.warmup < c.train.steps,
        f"config.optimizer.warmup={c.optimizer.warmup} must be less than "
        f"config.train.steps={c.train.steps}",
    )
    yield (
        c.model.lora_base == "float" or c.model.lora_rank > 0,
        f"config.model.lora_base={c.model.lora_base!r} needs config.model.lora_rank > 0: kernels in 4 "
        "bits are not trained, adapters are",
    )
    yield (
        not c.train.unfrozen or c.model.lora_rank > 0,
        f"config.train.unfrozen={c.train.unfrozen!r} needs config.model.lora_rank > 0: without "
        "adapters all is trained but config.train.frozen",
    )
    # With uniform weights J gains by lowering V wherever the policy goes; only the mixture's psi,
    # -x^2/8 on the policy's rewards, bounds it there (docs/mathematics.md, section 4).
    yield (
        WEIGHTINGS[objective.weighting].telescopes
        or objective.policy_weight == 0
        or objective.divergence == "chi2_mixture",
        f"config.objective.weighting={objective.weighting!r} with policy_weight > 0 needs "
        f"divergence='chi2_mixture', not {objective.divergence!r}: nothing else bounds V on the "
        "policy's steps",
    )


def _noise_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    yield (
        c.noise.kind != "policy" or c.noise.run == 0,
        f"config.noise.run={c.noise.run} must be 0 with noise.kind='policy': a second wrong token "
        "would be drawn at a state that one forward pass does not visit",
    )
    yield (
        c.noise.kind != "policy" or c.noise.step != "imitate",
        "config.noise.step='imitate' cannot be used with noise.kind='policy': the wrong token is drawn "
        "anew, so it is not the one that is imitated",
    )
    objective, method = effective_objective(c), METHODS[c.method]
    has_policy_terms = DIVERGENCES[objective.divergence].psi or objective.policy_weight > 0
    yield (
        c.noise.step != "skip" or not (method.edits and method.matches and has_policy_terms),
        f"config.noise.step='skip' with method={c.method} needs objective.policy_weight=0 (it is "
        f"{objective.policy_weight}) and a divergence without samples (it is "
        f"{objective.divergence!r}): otherwise J includes V at the states that wrong tokens lead to",
    )
    # Every noised text can be fixed: by one reset, or by single pops whatever the number of tokens.
    yield (
        set(c.edits) == {"<reset>"} or ("<bkspc>" in c.edits and "<reset>" not in c.edits),
        f"config.edits={c.edits!r} must be '<reset>' alone, or have '<bkspc>' and no '<reset>'",
    )


def _rollout_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
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


def _mesh_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    network = network_config(c, vocab_size=1)
    sizes = {"model.d_model": network.d_model, "model.d_ff": network.d_ff}
    values = flatten(c) | sizes
    for part, whole in (
        ("mesh.data", "train.batch_size"),
        ("mesh.data", "rollout.rows"),
        ("mesh.data", "rollout.batch_size"),
        ("mesh.model", "model.d_model"),
        ("mesh.model", "model.d_ff"),
    ):
        yield (
            values[whole] % values[part] == 0,
            f"config.{whole}={values[whole]} must be a multiple of config.{part}={values[part]}",
        )
    for whole in ("train.batch_size", "rollout.batch_size"):
        yield (
            values[whole] % (c.train.accumulate * c.mesh.data) == 0,
            f"config.{whole}={values[whole]} must be a multiple of config.train.accumulate="
            f"{c.train.accumulate} x config.mesh.data={c.mesh.data}",
        )
    yield (
        network.kv_heads * network.head_dim % c.mesh.model == 0,
        f"config.mesh.model={c.mesh.model} must divide the width of the keys, "
        f"model.kv_heads * model.d_model / model.heads = {network.kv_heads * network.head_dim}",
    )
