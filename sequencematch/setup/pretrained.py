"""Runs that begin with a pretrained model, and models that go back to where it came from."""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
from flax import nnx

from sequencematch.core.trajectory import build_trajectory
from sequencematch.data.subword import SubwordTokenizer, read_tokenizer
from sequencematch.data.tokenizer_files import generation_config
from sequencematch.models import lora
from sequencematch.models.config import LINEARS
from sequencematch.models.edit_rows import first_edit_rows
from sequencematch.models.pretrained.adapter import read_adapter, write_adapter
from sequencematch.models.pretrained.card import card_files
from sequencematch.models.pretrained.configs import family_of, read_config
from sequencematch.models.pretrained.families import EDITS, layout, leaves_by_path
from sequencematch.models.pretrained.reader import find_tensors, open_weights, read_params
from sequencematch.models.pretrained.writer import spare_rows, write_model
from sequencematch.models.sharding import path_name
from sequencematch.setup.build import Parts, training_data
from sequencematch.setup.defaults import lora_config
from sequencematch.train.mesh import batch_sharding, place_rows

ADAPTER_PREFIX = "adapter:"
LEAST_ETA = 1e-3  # edits begin with this probability where there is less noise, or none


def read_parameters(parts: Parts, trained: bool = True) -> nnx.State:
    """The parameters of the model in `config.model.path`, each on its devices.

    With config.init="adapter:DIR" its adapters begin as those of that directory. Rows of edits that
    neither has are fitted on the first batch of the run.

    Args:
      parts: the run.
      trained: whether parameters that are trained are asked for, too. At resume a checkpoint has them,
        and that directory need not be there any more.

    Raises:
      ValueError, OSError: tensors are missing, left over or of another shape, or cannot be read.
    """
    path = parts.config.model.path
    # Asked of the model itself: a run's folder has the tokenizer with its edits in any case.
    saved = read_tokenizer(path, tuple(parts.config.edits)).edits_saved
    weights = open_weights(path)
    kernels = lora.nf4_kernels(parts.whole(parts.like.params))
    family = family_of(read_config(path))
    base = read_params(weights, family, parts.base, edits_stored=saved, nf4_kernels=kernels)
    params = parts.adapt(base)
    # Where a run is asked for answers there is no batch, and its checkpoint has rows and adapters.
    frozen = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(parts.frozen)]
    are_frozen = any(re.search(f"{lora.ADAPTER}|^{EDITS}", path) for path in frozen)
    begins = "train" in parts.task.splits and (trained or are_frozen)
    if parts.config.init and begins:
        adapters = read_adapters(parts)
        params, saved = insert_adapters(params, adapters), saved or EDITS in adapters
    has_edits = bool((parts.recipe.mdp.legal & (parts.recipe.mdp.pops > 0)).any())
    return fit_edits(parts, params) if has_edits and not saved and begins else params


def read_adapters(parts: Parts) -> dict[str, jax.Array]:
    """Path -> array of the adapters in `config.init`, scaled as the run's own; with rows of edits.

    Raises:
      ValueError, OSError: there is no adapter, or the run's adapters have less room than it needs.
    """
    init, ours = parts.config.init, lora_config(parts.config)
    family = family_of(read_config(parts.config.model.path))
    theirs, state = read_adapter(init.removeprefix(ADAPTER_PREFIX), family, parts.base)
    if theirs.rank > ours.rank:
        raise ValueError(
            f"config.init={init!r} has rank {theirs.rank}: set config.model.lora_rank={theirs.rank}"
        )
    left_out = [path for path in LINEARS if theirs.adapts(path) and not ours.adapts(path)]
    if left_out:
        raise ValueError(
            f"config.init={init!r} adapts {', '.join(left_out)}, in which config.model.lora_targets="
            f"{ours.targets!r} is not found: name them, too"
        )
    scale = theirs.scale / ours.scale
    leaves = leaves_by_path(state)
    return {path: x * scale if path.endswith("lora_b") else x for path, x in leaves.items()}


def insert_adapters(params: nnx.State, adapters: Mapping[str, jax.Array]) -> nnx.State:
    """The parameters with these adapters in place of new ones; what a larger rank adds stays new."""

    def insert(path: tuple, param: nnx.Param) -> nnx.Param:
        x, old = adapters.get("/".join(map(str, path))), param[...]
        if x is None:
            return param
        whole = old.at[tuple(map(slice, x.shape))].set(x.astype(old.dtype))
        return param.replace(jax.device_put(whole, old.sharding))

    return nnx.map_state(insert, params)


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
    trajectories = build(place_rows(batch_sharding(parts.mesh), training_data(parts)[0][0]))
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


def export_adapter(
    parts: Parts, params: nnx.State, out: str | Path, facts: Mapping[str, str]
) -> None:
    """Writes the adapters and the rows of edits alone, as PEFT keeps them, with their tokenizer.

    Args, Raises: as of `export`; also if the run has no adapters, or trained other parameters, too.
    """
    config, tokenizer = parts.config, tokenizer_of(parts)
    if not config.model.lora_rank:
        raise ValueError("this run has no adapters: export the model, without --adapter")
    if config.train.unfrozen:
        raise ValueError(
            f"this run trained more than adapters (config.train.unfrozen={config.train.unfrozen!r}): "
            "export the model, without --adapter"
        )
    base, files, first = config.model.path, tokenizer.files(), tokenizer.own_size
    if edits := tokenizer.symbols(tokenizer.pops):
        name, rows = Path(out).name, first + len(edits)
        files |= card_files(name, edits, rows, first, facts, adapter_of=base)
    family = family_of(read_config(base))
    write_adapter(out, params, family, lora_config(config), base, files)


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
