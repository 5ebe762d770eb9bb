"""Runs that begin with a pretrained model, and models that go back to where it came from."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
from flax import nnx

from sequencematch.core.trajectory import build_trajectory
from sequencematch.data.subword import SubwordTokenizer, read_tokenizer
from sequencematch.data.tokenizer_files import generation_config
from sequencematch.models import lora
from sequencematch.models.edit_rows import first_edit_rows
from sequencematch.models.pretrained.card import card_files
from sequencematch.models.pretrained.configs import family_of, read_config
from sequencematch.models.pretrained.families import layout, leaves_by_path
from sequencematch.models.pretrained.reader import find_tensors, open_weights, read_params
from sequencematch.models.pretrained.writer import spare_rows, write_model
from sequencematch.setup.build import Parts, training_data
from sequencematch.setup.defaults import lora_config

LEAST_ETA = 1e-3  # edits begin with this probability where there is less noise, or none


def read_parameters(parts: Parts) -> nnx.State:
    """The parameters of the model in `config.model.path`, each on its devices.

    Rows of edits that it does not have are fitted on the first batch of the run.

    Raises:
      ValueError, OSError: tensors are missing, left over or of another shape, or cannot be read.
    """
    path = parts.config.model.path
    # Asked of the model itself: a run's folder has the tokenizer with its edits in any case.
    saved = read_tokenizer(path, tuple(parts.config.edits)).edits_saved
    weights = open_weights(path)
    base = read_params(weights, family_of(read_config(path)), parts.base, edits_stored=saved)
    params = parts.adapt(base)
    has_edits = bool((parts.recipe.mdp.legal & (parts.recipe.mdp.pops > 0)).any())
    # Where a run is asked for answers there is no batch, and its checkpoint has the rows.
    can_fit = "train" in parts.task.splits
    return fit_edits(parts, params) if has_edits and not saved and can_fit else params


def check_parameters(parts: Parts) -> None:
    """Checks names and shapes of the tensors in `config.model.path`, without reading them.

    Raises:
      ValueError, OSError: tensors are missing, left over or of another shape, or cannot be read.
    """
    path = parts.config.model.path
    family = family_of(read_config(path))
    find_tensors(open_weights(path), family, layout(family, leaves_by_path(parts.base)))


def fit_edits(parts: Parts, params: nnx.State) -> nnx.State:
    """The same parameters with rows of edits that choose them about as often as the noise rate."""
    recipe, eta = parts.recipe, max(parts.config.noise.eta, LEAST_ETA)
    build = jax.jit(jax.vmap(partial(build_trajectory, recipe.mdp)))
    trajectories = build(training_data(parts)[0][0])
    model = nnx.merge(recipe.graph, params)
    old = model.edits.kernel
    rows = first_edit_rows(model, recipe.mdp, trajectories, eta).astype(old.dtype)
    model.edits.kernel[...] = jax.device_put(rows, old.sharding)
    return nnx.state(model)


def export(parts: Parts, params: nnx.State, out: str | Path, facts: Mapping[str, str]) -> None:
    """Writes a finetuned model as a directory that transformers reads, with its tokenizer.

    Args:
      parts: the run; `config.model.path` is where its model came from.
      params: all parameters of the network; adapters are merged into what they adapt.
      out: the directory; it must not exist, or be empty.
      facts: what the model card tells of the run.

    Raises:
      ValueError, OSError: the run did not begin with a pretrained model, or it cannot be written.
    """
    path, tokenizer = parts.config.model.path, tokenizer_of(parts)
    if parts.config.model.lora_rank:
        params = lora.merge(params, lora_config(parts.config))
    config = read_config(path)
    family, first = family_of(config), tokenizer.own_size
    spare = spare_rows(open_weights(path), family, params)
    edits = len(tokenizer.pops)
    rows = first + max([edits, *(len(table) for table in spare.values())])
    generation = json.dumps(generation_config(tokenizer, rows), indent=2) + "\n"
    files = tokenizer.files() | {"generation_config.json": generation}
    if edits:
        files |= card_files(Path(out).name, tokenizer.symbols(tokenizer.pops), rows, first, facts)
    write_model(out, params, family, config, spare=spare, files=files)


def tokenizer_of(parts: Parts) -> SubwordTokenizer:
    """The tokenizer of the pretrained model that a run begins with.

    Raises:
      ValueError: it does not begin with one.
    """
    if not isinstance(parts.tokenizer, SubwordTokenizer):
        raise ValueError(
            "this run did not begin with a pretrained model, so there is no directory whose form its "
            "network could take: set config.model.path"
        )
    return parts.tokenizer
