"""An adapter alone, as PEFT keeps it: adapter_config.json and adapter_model.safetensors.

The rows of edits are kept as trained tokens: absolute rows, though their name ends in `delta`. Where
they are new, `resize_token_embeddings` comes first.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sequencematch.models.config import LINEARS, Lora
from sequencematch.models.lora import merge
from sequencematch.models.pretrained.families import (
    EDITS,
    EMBEDDING,
    HEAD,
    Stored,
    layout,
    leaves_by_path,
)
from sequencematch.models.pretrained.reader import mean_row
from sequencematch.models.pretrained.writer import fetch, make_directory
from sequencematch.storage.files import expand
from sequencematch.storage.files import write as write_text

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
ROWS = "token_adapter.trainable_tokens_delta"
BASE_ROWS = "token_adapter.base_layer.weight"  # the base's table, which PEFT may save besides
TIED_HEAD = "lm_head"  # of a tied model PEFT saves it, too: it is the embedding
# What this network cannot be given: key -> the values that change nothing.
ONLY = {
    "bias": ("none",),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "init_lora_weights": (
        True,
        False,
        None,
        "gaussian",
        "orthogonal",
        "eva",
    ),  # others change the base
}


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
    tokens = {_last(module): [*range(ids, ids + len(x))] for module, x in rows.items()}
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
        save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / WEIGHTS).chmod(0o644)  # safetensors makes it readable by its owner only
        text = json.dumps(config, indent=2) + "\n"
        for name, content in {CONFIG: text, **(files or {})}.items():
            write_text(folder / name, content)


def read_adapter(folder: str | Path, family: str, like: Any) -> tuple[Lora, nnx.State]:
    """The adapters of a directory, and the rows of edits where it has them.

    Maps may have ranks of their own there, or no adapter in some layers; here all have the largest
    rank, and B is scaled for it. What is added is new: A is drawn, and B is 0.

    Args:
      folder: where `write_adapter` or PEFT has saved one.
      family: a key of `families.FAMILIES`.
      like: parameters of the network without adapters, or their shapes.

    Raises:
      ValueError, OSError: there is no adapter, or one that this network cannot have; says why.
    """
    path = expand(folder)
    config, tensors = _read_files(path)
    stored = {PREFIX + name.removesuffix(".weight"): x for name, x in _layout(like, family).items()}
    if f"{PREFIX}{TIED_HEAD}" not in stored:
        copies = {f"{PREFIX}{TIED_HEAD}.{part}" for part in ("weight", ROWS, BASE_ROWS)}
        tensors = {name: x for name, x in tensors.items() if name not in copies}
    found: dict[str, dict[int, tuple]] = {}
    for module, x in stored.items():
        if x.paths[0].removesuffix("/kernel") in LINEARS and f"{module}.lora_A.weight" in tensors:
            a, b = (tensors.pop(f"{module}.lora_{side}.weight").T for side in "AB")
            scale = _of_module(config, "alpha_pattern", module, config["lora_alpha"])
            scale /= len(b) ** (0.5 if config.get("use_rslora") else 1)  # Kalajdzievski 2023: √r
            cuts = np.cumsum([leaves_by_path(like)[p].shape[-1] for p in x.paths])[:-1]
            for place, part in zip(x.paths, np.split(b * scale, cuts, -1), strict=True):
                found.setdefault(place.removesuffix("/kernel"), {})[x.layer] = (a, part)
        tensors.pop(f"{module}.{BASE_ROWS}", None)
    rows = {module: tensors.pop(f"{module}.{ROWS}", None) for module in stored}
    if tensors or not found:
        raise ValueError(
            f"{path} is no adapter of this model: it has {', '.join(sorted(tensors)) or 'no tensors'}"
        )
    rank = max(a.shape[1] for layers in found.values() for a, _ in layers.values())
    lora = Lora(rank, float(rank), f"^({'|'.join(sorted(found))})$")
    leaves, arrays = leaves_by_path(like), {}
    for place, layers in found.items():
        kernel = leaves[f"{place}/kernel"]
        arrays |= {f"{place}/{name}": x for name, x in _stack(layers, kernel.shape, rank).items()}
    if any(x is not None for x in rows.values()):
        head = [m for m, x in stored.items() if x.paths in ((EMBEDDING,), (HEAD,))][-1]
        order = _order_of_edits(path, config, _last(head), leaves, rows[head] is not None)
        arrays[EDITS] = rows[head][order].T
    flat = {(*name.split("/"),): nnx.Param(jnp.asarray(x)) for name, x in arrays.items()}
    return lora, nnx.from_flat_state(flat)


def _stack(layers: Mapping[int, tuple], shape: tuple[int, ...], rank: int) -> dict[str, np.ndarray]:
    """Adapters of a map in all its layers, [layers, D, rank] and [layers, rank, F].

    Args:
      layers: A and B of those layers that have one.
      shape: of the map's kernels, [layers, D, F].
      rank: of all.
    """
    n, inputs, outputs = shape
    # As `lora.LowRankLinear` draws it. With both sides 0 neither would ever change.
    a = np.random.default_rng(0).uniform(-1, 1, (n, inputs, rank)) * inputs**-0.5
    b = np.zeros((n, rank, outputs))
    for layer, (own_a, own_b) in layers.items():
        a[layer, :, : own_a.shape[1]], b[layer, : len(own_b)] = own_a, own_b
    return {"lora_a": a.astype(np.float32), "lora_b": b.astype(np.float32)}


def _order_of_edits(
    path: Path, config: Mapping[str, Any], head: str, leaves: Mapping[str, Any], has_rows: bool
) -> np.ndarray:
    """Which trained token each edit is.

    Args:
      path: of the adapter.
      config: its configuration.
      head: the table that logits are read from.
      leaves: of the network.
      has_rows: whether tokens of this table were trained.

    Raises:
      ValueError: the trained tokens are others than the edits.
    """
    tokens = config.get("trainable_token_indices") or []
    tokens = tokens.get(head, []) if isinstance(tokens, dict) else tokens
    first = leaves[EMBEDDING].shape[0]
    edits = [*range(first, first + (leaves[EDITS].shape[1] if EDITS in leaves else 0))]
    if not has_rows or sorted(tokens) != edits:
        raise ValueError(
            f"{path} has trained tokens {tokens if has_rows else []} of {head}: only the edits of the "
            f"tokenizer can be read, which are {edits}"
        )
    return np.argsort(tokens)


def _read_files(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise ValueError(f"{path} is no adapter: it has no {name}")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(path / WEIGHTS)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"the adapter in {path} is damaged ({error})") from error
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path / CONFIG} is of peft_type {config.get('peft_type')}, not LORA")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise ValueError(f"{path / CONFIG} does not say lora_alpha")
    for key, allowed in ONLY.items():
        if config.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{key}={config[key]!r} in {path / CONFIG} is not supported")
    return config, {name: np.float32(x) for name, x in tensors.items()}


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
    leaves, found = leaves_by_path(params), {}
    for name, stored in _layout(params, family, lora).items():
        if stored.has_vocabulary and EDITS in leaves:
            edits = fetch(leaves[EDITS], None).T
            if stored.paths != (HEAD,) and HEAD in leaves:
                # No edit is fed to the network.
                mean = mean_row(fetch(leaves[EMBEDDING], None))
                edits = np.repeat(mean[None], len(edits), axis=0)
            found[name.removesuffix(".weight")] = edits
    return found


def _suffix(module: str) -> str:
    """What names a map in all layers, such as self_attn.q_proj."""
    return ".".join(module.split(".")[-2:])


def _last(module: str) -> str:
    return module.split(".")[-1]


def _of_module(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The value that a pattern of PEFT's configuration gives to a map."""
    name, patterns = module.removeprefix(PREFIX), config.get(key) or {}
    return next((x for end, x in patterns.items() if re.match(rf"(.*\.)?({end})$", name)), default)
