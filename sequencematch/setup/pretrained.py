"""Runs that begin with a pretrained model, and models that go back to where it came from."""

import dataclasses
import json
import re
from collections.abc import Mapping
from functools import partial
from math import log, log1p
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool

from sequencematch.core.trajectory import build_trajectory
from sequencematch.data.subword import SubwordTokenizer, read_tokenizer
from sequencematch.data.tokenizer_files import generation_config
from sequencematch.models import lora
from sequencematch.models.edit_rows import first_edit_rows
from sequencematch.models.pretrained.adapter import write_adapter
from sequencematch.models.pretrained.card import card_files
from sequencematch.models.pretrained.configs import family_of, read_config
from sequencematch.models.pretrained.families import EDITS, layout, leaves_by_path
from sequencematch.models.pretrained.reader import find_tensors, open_weights, read_params
from sequencematch.models.pretrained.writer import spare_rows, write_model
from sequencematch.models.sharding import path_name
from sequencematch.setup.adapters import insert_adapters, read_adapters
from sequencematch.setup.build import Parts, training_data
from sequencematch.setup.defaults import function_of, has_edits, lora_config, network_config
from sequencematch.storage.files import expand
from sequencematch.storage.processes import fetch
from sequencematch.train.mesh import batch_sharding, place_rows

LEAST_ETA = 1e-3  # edits begin with this probability where there is less noise, or none


def read_parameters(parts: Parts, trained: bool = True) -> nnx.State:
    """The parameters of the model in `config.model.path`, each on its devices.

    With config.init="adapter:DIR" its adapters begin as those of that directory. Rows of edits that
    neither has are fitted on the first batch of the run, or a part of it.

    Args:
      parts: the run.
      trained: whether parameters that are trained are asked for, too. At resume a checkpoint has them,
        and that directory need not be there any more.

    Raises:
      ValueError, OSError: tensors are missing, left over or of another shape, or cannot be read.
    """
    path = parts.config.model.path
    # Asked of the model itself: a run's folder has the tokenizer with its edits in any case.
    edit_rows = read_tokenizer(path, tuple(parts.config.edits)).edit_rows
    weights = open_weights(path)
    kernels = lora.nf4_kernels(parts.whole(parts.like.params))
    family = family_of(read_config(path))
    base = read_params(weights, family, parts.base, edit_rows=edit_rows, nf4_kernels=kernels)
    params, known = parts.adapt(base), np.array([row is not None for row in edit_rows], bool)
    if parts.config.init and (trained or freezes(parts, f"{lora.ADAPTER}|^{EDITS}")):
        adapters = read_adapters(parts)
        params, known = insert_adapters(params, adapters), known | (EDITS in adapters)
    return fit_new_edits(parts, params, known, trained)


def freezes(parts: Parts, pattern: str) -> bool:
    """Whether a parameter whose path has a pattern is not trained."""
    frozen = jax.tree_util.tree_leaves_with_path(parts.frozen)
    return any(re.search(pattern, path_name(path)) for path, _ in frozen)


def check_parameters(parts: Parts) -> None:
    """Checks names and shapes of the tensors in `config.model.path`, without reading them.

    Raises:
      ValueError, OSError: tensors are missing, left over or of another shape, or cannot be read.
    """
    path = parts.config.model.path
    family = family_of(read_config(path))
    find_tensors(open_weights(path), family, layout(family, leaves_by_path(parts.base)))


def fit_new_edits(
    parts: Parts,
    params: nnx.State,
    known: Bool[np.ndarray, " edits"] | bool = False,
    trained: bool = True,
) -> nnx.State:
    """The same parameters with rows of new edits that choose them about as often as the noise rate.

    Nothing is done for a method without edits, nor where a checkpoint has the rows; nor where a run is
    asked for answers: there is no batch to fit them on.

    Args:
      parts: the run.
      params: of a network that has not learnt all of its edits.
      known: which ones it has learnt; False for none.
      trained: as of `read_parameters`.

    Raises:
      ValueError: the rows are frozen: they would stay as they are fitted, and no checkpoint has them.
    """
    is_frozen = freezes(parts, f"^{EDITS}")
    begins = "train" in parts.task.splits and (trained or is_frozen)
    if np.all(known) or not (has_edits(parts.config) and begins):
        return params
    if is_frozen:
        raise ValueError(
            f"config.train.frozen={parts.config.train.frozen!r} freezes {EDITS}, the rows of edits, "
            "which nothing has taught yet: let them be trained"
        )
    recipe, noise = parts.recipe, parts.config.noise
    eta = max(noise.eta * (noise.kind != "none"), LEAST_ETA)
    build = jax.jit(jax.vmap(partial(build_trajectory, recipe.mdp)))
    # As many rows as pass through the network at a time in training: there is memory for these.
    batch = jax.tree.map(lambda x: x[:: recipe.parts], training_data(parts)[0][0])
    trajectories = build(place_rows(batch_sharding(parts.mesh), batch))
    model = nnx.merge(recipe.graph, params)
    old = model.edits.kernel
    rows = first_edit_rows(model, recipe.mdp, trajectories, eta).astype(old.dtype)
    rows = np.where(known, fetch(old[...]), rows)
    model.edits.kernel[...] = jax.device_put(rows, old.sharding)
    return nnx.state(model)


def compute_alike(ours: Parts, theirs: Parts) -> bool:
    """Whether the networks of two runs compute the same with the same parameters."""
    if ours.task.network:
        return True
    first, second = (
        network_config(x.config, x.tokenizer.vocab_size, len(x.tokenizer.pops))
        for x in (ours, theirs)
    )
    return function_of(first) == function_of(second)


def export(
    parts: Parts,
    params: nnx.State,
    out: str | Path,
    facts: Mapping[str, str],
    dtype: str | None = None,
) -> None:
    """Writes a finetuned model as a directory that transformers reads, with its tokenizer.

    A method without edits leaves the rows of edits untrained: neither weights nor tokenizer have them.

    Args:
      parts: the run; `config.model.path` is where its model came from.
      params: all parameters of the network; adapters are merged into what they adapt.
      out: the directory; it must not exist, or be empty.
      facts: what the model card tells of the run.
      dtype: what weights are stored in; None for that of the model in `config.model.path`.

    Raises:
      ValueError, OSError: the run did not begin with a pretrained model, or it cannot be written.
    """
    path, (tokenizer, params) = parts.config.model.path, with_learnt_edits(parts, params)
    config, adapters = read_config(path), lora_config(parts.config)
    family = family_of(config)
    spare = spare_rows(open_weights(path), family, parts.base)
    files = files_beside(parts, tokenizer, spare, Path(out).name, facts)
    adapters = adapters if adapters.rank else None
    how = dict(lora=adapters, dtype=dtype, spare=spare, files=files)
    write_model(out, params, family, config, **how)


def export_adapter(
    parts: Parts, params: nnx.State, out: str | Path, facts: Mapping[str, str]
) -> None:
    """Writes the adapters and the rows of edits alone, as PEFT keeps them, with their tokenizer.

    Args, Raises: as of `export`; also if the run has no adapters, or trained other parameters, too.
    """
    check_adapter(parts)
    config, (tokenizer, params) = parts.config, with_learnt_edits(parts, params)
    # It is read from the adapter's directory, by libraries that know no ~.
    base = str(expand(config.model.path).absolute())
    family = family_of(read_config(base))
    spare = spare_rows(open_weights(base), family, parts.base)
    files = files_beside(parts, tokenizer, spare, Path(out).name, facts, adapter_of=base)
    write_adapter(out, params, family, lora_config(config), base, files)


def check_adapter(parts: Parts) -> None:
    """Raises ValueError if a run has no adapters, or trained other parameters, too."""
    config = parts.config
    if not config.model.lora_rank:
        raise ValueError("this run has no adapters: export the model, without --adapter")
    if config.train.unfrozen:
        raise ValueError(
            f"this run trained more than adapters (config.train.unfrozen={config.train.unfrozen!r}): "
            "export the model, without --adapter"
        )


def files_beside(
    parts: Parts,
    tokenizer: SubwordTokenizer,
    spare: Mapping[str, np.ndarray],
    name: str,
    facts: Mapping[str, str],
    adapter_of: str | None = None,
) -> dict[str, str]:
    """Name -> content of what is written beside weights: tokenizer, generation_config.json and card.

    Args:
      parts: the run, whose way to decide on edits generate.py has.
      tokenizer: with the edits that are written, if any.
      spare: as of `spare_rows`: edits take the first of them.
      name: of the model.
      facts, adapter_of: as of `card_files`.
    """
    first, edits = tokenizer.own_size, tokenizer.symbols(tokenizer.pops)
    rows = first + max([len(edits), *map(len, spare.values())])
    generation = json.dumps(generation_config(tokenizer, rows), indent=2) + "\n"
    c = parts.config.evaluate
    bias = c.edit_bias - log(c.edit_threshold) + log1p(-c.edit_threshold)
    card = card_files(name, edits, rows, first, facts, adapter_of, bias, c.memory)
    return {**tokenizer.files(), "generation_config.json": generation, **card}


def with_learnt_edits(parts: Parts, params: nnx.State) -> tuple[SubwordTokenizer, nnx.State]:
    """Tokenizer and parameters, without edits where the method has taught none.

    Raises:
      ValueError: as of `tokenizer_of`.
    """
    tokenizer = tokenizer_of(parts)
    if has_edits(parts.config):
        return tokenizer, params
    kept = nnx.filter_state(params, lambda path, _: not lora.is_found(f"^{EDITS}$", path))
    return dataclasses.replace(tokenizer, edits=()), kept


def tokenizer_of(parts: Parts) -> SubwordTokenizer:
    """The tokenizer of the pretrained model that a run begins with.

    Raises:
      ValueError: it does not begin with one.
    """
    if not parts.config.model.path or not isinstance(parts.tokenizer, SubwordTokenizer):
        raise ValueError(
            "this run did not begin with a pretrained model, so there is no directory whose form its "
            "network could take: set config.model.path"
        )
    return parts.tokenizer
