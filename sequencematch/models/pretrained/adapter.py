"""Writes an adapter alone, as PEFT keeps it: adapter_config.json and adapter_model.safetensors.

The rows of edits are kept as trained tokens: absolute rows, though their name ends in `delta`. Where
they are new, `resize_token_embeddings` comes first.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from sequencematch.models.config import Lora
from sequencematch.models.lora import merge
from sequencematch.models.pretrained.families import (
    EDITS,
    EMBEDDING,
    Stored,
    layout,
    leaves_by_path,
)
from sequencematch.models.pretrained.writer import (
    fetch,
    make_directory,
    save_tensors,
    stored_edit_rows,
)
from sequencematch.storage.files import write as write_text

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
ROWS = "token_adapter.trainable_tokens_delta"


def write_adapter(
    out: str | Path,
    params: nnx.State,
    family: str,
    lora: Lora,
    base: str,
    files: Mapping[str, str] | None = None,
) -> None:
    """Writes the adapters and the rows of edits of a network.

    What else was trained is not in it: then the merged model is to be exported. The directory appears
    when it is complete.

    Args:
      out: the directory; it must not exist, or be empty.
      params: the network's parameters.
      family: a key of `families.FAMILIES`.
      lora: its adapters.
      base: name or directory of the model that they were trained on.
      files: other files, name -> text.

    Raises:
      ValueError, OSError: the directory holds something, or cannot be written.
    """
    leaves = leaves_by_path(params)
    modules = dict(_modules(params, family, lora))
    patterns = {_suffix(m): _adapted_maps(stored, leaves) for m, stored in modules.items()}
    fused = {suffix: len(places) for suffix, places in patterns.items() if len(places) > 1}
    tensors, rows = {}, _edit_rows(params, family, lora)
    for module, stored in modules.items():
        a, b = _factors(stored, leaves)
        tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    tensors |= {f"{module}.{ROWS}": x for module, x in rows.items()}
    ids = leaves[EMBEDDING].shape[0]
    tokens = {table_name(module): [*range(ids, ids + len(x))] for module, x in rows.items()}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(patterns),
        "rank_pattern": {suffix: n * lora.rank for suffix, n in fused.items()},
        "alpha_pattern": {suffix: n * lora.alpha for suffix, n in fused.items()},
        "fan_in_fan_out": not all(stored.transpose for stored in modules.values()),
        "trainable_token_indices": tokens or None,
        "bias": "none",
        "inference_mode": True,
    }
    whole = {PREFIX + name: np.ascontiguousarray(x) for name, x in tensors.items()}
    with make_directory(out) as folder:
        save_tensors(whole, folder / WEIGHTS)
        text = json.dumps(config, indent=2) + "\n"
        for name, content in {CONFIG: text, **(files or {})}.items():
            write_text(folder / name, content)


def _layout(params: Any, family: str, lora: Lora | None = None) -> dict[str, Stored]:
    shapes = jax.eval_shape(partial(merge, lora=lora), params) if lora else params
    return layout(family, leaves_by_path(shapes))


def _modules(params: nnx.State, family: str, lora: Lora) -> Iterator[tuple[str, Stored]]:
    """The linear maps of a checkpoint that have an adapter."""
    leaves = leaves_by_path(params)
    for name, stored in _layout(params, family, lora).items():
        if name.endswith(".weight") and _adapted_maps(stored, leaves):
            yield name.removesuffix(".weight"), stored


def _adapted_maps(stored: Stored, leaves: Mapping[str, Any]) -> list[str]:
    """Those of our maps that a checkpoint's map holds which have an adapter."""
    places = [path.removesuffix("/kernel") for path in stored.paths]
    return [place for place in places if f"{place}/lora_a" in leaves]


def _factors(stored: Stored, leaves: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A [ranks, D] and B [F, ranks] of a checkpoint's map; of several of ours, beside each other."""
    a = [fetch(leaves[f"{place}/lora_a"], stored.layer) for place in _adapted_maps(stored, leaves)]
    blocks, row = [], 0
    ranks = sum(x.shape[1] for x in a)
    for path in stored.paths:
        place = path.removesuffix("/kernel")
        shape = (leaves.get(path, leaves.get(f"{path}/qvalue"))).shape
        block = np.zeros((ranks, shape[-1]), np.float32)
        if f"{place}/lora_b" in leaves:
            b = fetch(leaves[f"{place}/lora_b"], stored.layer)
            block[row : row + len(b)] = b
            row += len(b)
        blocks.append(block)
    return np.concatenate(a, axis=1).T, np.concatenate(blocks, axis=1).T


def _edit_rows(params: nnx.State, family: str, lora: Lora) -> dict[str, np.ndarray]:
    """The rows of edits in each table of tokens, by the table's module."""
    leaves = leaves_by_path(params)
    return {
        name.removesuffix(".weight"): stored_edit_rows(stored, leaves)
        for name, stored in _layout(params, family, lora).items()
        if stored.has_vocabulary and EDITS in leaves
    }


def _suffix(module: str) -> str:
    """What names a map in all layers, such as self_attn.q_proj."""
    return ".".join(module.split(".")[-2:])


def table_name(module: str) -> str:
    """What PEFT calls a table of tokens."""
    return module.split(".")[-1]
