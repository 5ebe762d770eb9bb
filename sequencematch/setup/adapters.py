"""Adapters, as PEFT keeps them, that a run begins with: config.init="adapter:DIR"."""

from collections.abc import Mapping
from pathlib import Path

import jax
from flax import nnx

from sequencematch.data.tokenizer_files import read_tokenizer_json, split_edits
from sequencematch.models.config import LINEARS
from sequencematch.models.pretrained.adapter_reader import read_adapter
from sequencematch.models.pretrained.configs import family_of, read_config
from sequencematch.models.pretrained.families import EDITS, leaves_by_path
from sequencematch.setup.build import Parts
from sequencematch.setup.defaults import lora_config
from sequencematch.storage.files import expand

PREFIX = "adapter:"


def read_adapters(parts: Parts) -> dict[str, jax.Array]:
    """Path -> array of the adapters in `config.init`, scaled as the run's own; with rows of edits.

    Raises:
      ValueError, OSError: there is no adapter, the run's adapters have less room than it needs, or its
        rows are of other edits.
    """
    init, ours = parts.config.init, lora_config(parts.config)
    family = family_of(read_config(parts.config.model.path))
    folder = expand(init.removeprefix(PREFIX))
    theirs, state = read_adapter(folder, family, parts.base)
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
    scale, leaves = theirs.scale / ours.scale, leaves_by_path(state)
    if EDITS in leaves:
        check_names(parts, folder)
    return {path: x * scale if path.endswith("lora_b") else x for path, x in leaves.items()}


def check_names(parts: Parts, folder: Path) -> None:
    """Raises ValueError if an adapter's rows, which have only ids, are of other edits than the run's.

    PEFT saves no tokenizer beside an adapter, and others save the base's: nothing says whose they are.
    """
    has_names = (folder / "tokenizer.json").is_file()
    names = split_edits(read_tokenizer_json(folder))[1] if has_names else []
    if names and names != (ours := parts.tokenizer.symbols(parts.tokenizer.pops)):
        raise ValueError(
            f"config.init={parts.config.init!r} has rows of the edits {names}, and this run the edits "
            f"{ours}: set config.edits={tuple(names)}"
        )


def insert_adapters(params: nnx.State, adapters: Mapping[str, jax.Array]) -> nnx.State:
    """The parameters with these adapters in place of new ones; what a larger rank adds stays new."""

    def insert(path: tuple, param: nnx.Param) -> nnx.Param:
        x, old = adapters.get("/".join(map(str, path))), param[...]
        if x is None:
            return param
        whole = old.at[tuple(map(slice, x.shape))].set(x.astype(old.dtype))
        return param.replace(jax.device_put(whole, old.sharding))

    return nnx.map_state(insert, params)
