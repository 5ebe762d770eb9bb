"""What must hold between keys of the configuration."""

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import numpy as np
from ml_collections import ConfigDict

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.rollout.decodings import decoding_fault
from sequencematch.setup.defaults import (
    PRECISION,
    defaults,
    effective_objective,
    flatten,
    has_edits,
    network_config,
)
from sequencematch.setup.recipe import draws_samples, make_objective, make_settings
from sequencematch.train.methods import METHODS


def relations(config: ConfigDict) -> Iterator[tuple[bool, str]]:
    """Yields (what must hold, the message if it does not) for keys that depend on each other."""
    yield from _data_relations(config)
    yield from _network_relations(config)
    yield from _training_relations(config)
    yield from _noise_relations(config)
    yield from _rollout_relations(config)
    yield from _row_relations(config)
    yield from width_relations(config)
    yield from _answer_relations(config)


def _data_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    is_own, has_files = ":" in c.task, c.task == "jsonl" or ":" in c.task
    yield (
        c.data.train > 0 or is_own or c.task in ("jsonl", "text"),
        f"config.data.train=0 takes all of task='jsonl' and 'text' alone: task={c.task!r} makes as "
        "many as it is asked for, so name a number",
    )
    for split in ("validation", "test"):
        file = f", or a file as config.data.{split}_path, of which 0 takes all" if has_files else ""
        yield (
            c.data[split] > 0 or (has_files and c.data[f"{split}_path"] != ""),
            f"config.data.{split}=0 asks no question: name a number{file}",
        )
    yield (
        not c.data.separator or c.data.window > 0,
        f"config.data.separator={c.data.separator!r} needs config.data.window > 0: whole documents "
        "have nothing between them",
    )


def _network_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    own = defaults().model
    key = "model.path" if c.model.path else "model.preset"
    known, others = f"config.{key}={flatten(c)[key]!r}", ("path", "preset", *PRECISION)
    sizes = [key for key in own if key not in others and not key.startswith("lora_")]
    changed = [key for key in sizes if c.model[key] != own[key]]
    yield (
        not (c.model.path or c.model.preset) or not changed,
        f"{known} has sizes of its own, so that none can be set: leave "
        f"out {', '.join(f'config.model.{key}' for key in changed)}",
    )
    network = network_config(c, vocab_size=1)
    for name, actions in (("", c.max_actions), ("evaluate.", c.evaluate.max_actions)):
        slots = c.prompt_slots + actions
        yield (
            # Rotary positions have no end, but what comes after those of pretraining was never seen.
            slots <= network.context or (network.positions != "learned" and not network.context),
            f"config.prompt_slots + {name}max_actions = {slots} is more than the {network.context} "
            f"positions of {known}",
        )


def _training_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    objective = effective_objective(c)
    yield (
        c.train.bc_steps < c.train.steps - 1 or not METHODS[c.method].clones,
        f"config.train.bc_steps={c.train.bc_steps} must be less than config.train.steps - 1, which is "
        f"{c.train.steps - 1}: of method={c.method} the first step after cloning still clones",
    )
    yield (
        c.optimizer.warmup < c.train.steps,
        f"config.optimizer.warmup={c.optimizer.warmup} must be less than "
        f"config.train.steps={c.train.steps}",
    )
    yield (
        c.model.lora_base == "float" or c.model.lora_rank > 0,
        f"config.model.lora_base={c.model.lora_base!r} needs config.model.lora_rank > 0: kernels of "
        "few bits are not trained, adapters are",
    )
    yield (
        not c.init.startswith("adapter:") or (bool(c.model.path) and c.model.lora_rank > 0),
        f"config.init={c.init!r} needs config.model.path, the model that was adapted, and "
        "config.model.lora_rank > 0",
    )
    yield (
        not c.train.unfrozen or c.model.lora_rank > 0,
        f"config.train.unfrozen={c.train.unfrozen!r} needs config.model.lora_rank > 0: without "
        "adapters all is trained but config.train.frozen",
    )
    yield (
        not c.objective.bound or np.float32(c.objective.gamma) < 1,
        "config.objective.bound=True needs config.objective.gamma < 1: it is 4/(alpha (1-gamma))",
    )
    # Where C does not telescope J gains by lowering V wherever the policy goes; only psi, as the
    # mixture's -x^2/8 on the policy's rewards, bounds it there (docs/mathematics.md, section 4).
    yield (
        make_objective(c, make_settings(c)).policy_share == 0
        or DIVERGENCES[objective.divergence].psi is not None,
        f"config.objective.weighting={objective.weighting!r}, next_value={objective.next_value!r} and "
        f"bound={objective.bound} with policy_weight > 0 need a divergence with psi ('chi2_mixture'), "
        f"not {objective.divergence!r}: nothing else bounds V on the policy's steps",
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
    yield (
        c.noise.step != "imitate" or not (c.rollout.noise and has_edits(c) and draws_samples(c)),
        "config.rollout.noise=True cannot be used with noise.step='imitate': wrong tokens are "
        "the expert's own actions then, and samples have those that the policy chooses",
    )
    objective = effective_objective(c)
    yield (
        c.noise.step != "skip" or not (has_edits(c) and draws_samples(c)),
        f"config.noise.step='skip' with method={c.method} needs objective.policy_weight=0 (it is "
        f"{objective.policy_weight}) and a divergence without samples (it is "
        f"{objective.divergence!r}): otherwise J includes V at the states that wrong tokens lead to",
    )
    # Every noised text can be fixed: by one reset, or by single pops whatever the number of tokens.
    yield (
        set(c.edits) in ({"<reset>"}, set()) or ("<bkspc>" in c.edits and "<reset>" not in c.edits),
        f"config.edits={c.edits!r} must be '<reset>' alone, (), or have '<bkspc>' and no '<reset>'",
    )
    yield (
        bool(c.edits) or not METHODS[c.method].edits or c.noise.kind == "none",
        f"config.edits=() leaves method={c.method} nothing to take a wrong token back with: set "
        "config.noise.kind='none'",
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


def _row_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    rows, values = ("mesh.data", "mesh.fsdp"), flatten(c)
    sampled = ("rollout.rows", "rollout.batch_size") if draws_samples(c) else ()
    for whole in ("train.batch_size", *sampled):
        yield _is_multiple(values, whole, rows)
        if whole != "rollout.rows":
            yield _is_multiple(values, whole, ("train.accumulate", *rows))


def _is_multiple(values: Mapping[str, int], whole: str, parts: Iterable[str]) -> tuple[bool, str]:
    # Only those that divide anything are named.
    parts = [part for part in parts if values[part] > 1]
    return (
        values[whole] % prod(values[part] for part in parts) == 0,
        f"config.{whole}={values[whole]} must be a multiple of "
        + " x ".join(f"config.{part}={values[part]}" for part in parts),
    )


def width_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    """Yields (whether it holds, what to say if not) of each relation of the network to the mesh."""
    network = network_config(c, vocab_size=1)
    sizes = {"model.d_model": network.d_model, "model.d_ff": network.d_ff}
    values = flatten(c) | sizes
    yield _is_multiple(values, "model.d_model", ("mesh.fsdp", "mesh.model"))
    yield _is_multiple(values, "model.d_ff", ("mesh.model",))
    yield (
        network.keys_width % c.mesh.model == 0,
        f"config.mesh.model={c.mesh.model} must divide the width of the keys, "
        f"model.kv_heads * model.d_model / model.heads = {network.keys_width}",
    )


def _answer_relations(c: ConfigDict) -> Iterator[tuple[bool, str]]:
    fault = next(filter(None, map(decoding_fault, c.evaluate.decodings)), "")
    yield not fault, f"config.evaluate.decodings: {fault}"
    stop_at, limit = c.evaluate.stop_at, c.evaluate.max_actions
    yield (
        not limit or stop_at <= limit,
        f"config.evaluate.stop_at={stop_at} must be at most config.evaluate.max_actions={limit}: no "
        "answer would reach so many tokens",
    )
