"""Reads an adapter that `write_adapter` or PEFT has saved."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sequencematch.models.config import LINEARS, Lora
from sequencematch.models.pretrained.adapter import CONFIG, PREFIX, ROWS, WEIGHTS, table_name
from sequencematch.models.pretrained.families import (
    EDITS,
    EMBEDDING,
    HEAD,
    Stored,
    layout,
    leaves_by_path,
)
from sequencematch.storage.files import expand

BASE_ROWS = "token_adapter.base_layer.weight"  # the base's table, which PEFT may save besides
TIED_HEAD = "lm_head"  # of a tied model PEFT saves it, too: it is the embedding
# What this network cannot be given: key -> the values that change nothing.
ONLY = {
    "bias": ("none",),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "kasa_config": (None,),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    # Others change the base.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}


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
    leaves = leaves_by_path(like)
    by_name = layout(family, leaves)
    stored = {PREFIX + name.removesuffix(".weight"): x for name, x in by_name.items()}
    if f"{PREFIX}{TIED_HEAD}" not in stored:
        copies = {f"{PREFIX}{TIED_HEAD}.{part}" for part in ("weight", ROWS, BASE_ROWS)}
        tensors = {name: x for name, x in tensors.items() if name not in copies}
    found = _take_factors(tensors, stored, config, leaves)
    rows = {module: tensors.pop(f"{module}.{ROWS}", None) for module in stored}
    for module in stored:
        tensors.pop(f"{module}.{BASE_ROWS}", None)
    if tensors or not found:
        raise ValueError(
            f"{path} is no adapter of this model: it has {', '.join(sorted(tensors)) or 'no tensors'}"
        )
    rank = max(a.shape[1] for layers in found.values() for a, _ in layers.values())
    lora = Lora(rank, float(rank), f"^({'|'.join(sorted(found))})$")
    arrays: dict[str, np.ndarray] = {}
    for place, layers in found.items():
        kernel = leaves[f"{place}/kernel"]
        arrays |= {f"{place}/{name}": x for name, x in _stack(layers, kernel.shape, rank).items()}
    if any(x is not None for x in rows.values()):
        head = [m for m, x in stored.items() if x.paths in ((EMBEDDING,), (HEAD,))][-1]
        order = _order_of_edits(path, config, table_name(head), leaves, rows[head] is not None)
        arrays[EDITS] = rows[head][order].T
    flat = {(*name.split("/"),): nnx.Param(jnp.asarray(x)) for name, x in arrays.items()}
    return lora, nnx.from_flat_state(flat)


def _take_factors(
    tensors: dict[str, np.ndarray],
    stored: Mapping[str, Stored],
    config: Mapping[str, Any],
    leaves: Mapping[str, Any],
) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """A and B, scaled, of each of our maps in each layer; they are taken out of `tensors`."""
    found: dict[str, dict[int, tuple]] = {}
    for module, x in stored.items():
        if x.paths[0].removesuffix("/kernel") in LINEARS and f"{module}.lora_A.weight" in tensors:
            a, b = (tensors.pop(f"{module}.lora_{side}.weight").T for side in "AB")
            if a.shape[1] != len(b):
                raise ValueError(
                    f"{module}: A of {a.shape[1]} ranks and B of {len(b)} are no product"
                )
            scale = _of_module(config, "alpha_pattern", module, config["lora_alpha"])
            scale /= len(b) ** (0.5 if config.get("use_rslora") else 1)  # Kalajdzievski 2023: √r
            cuts = np.cumsum([leaves[path].shape[-1] for path in x.paths])[:-1]
            for place, part in zip(x.paths, np.split(b * scale, cuts, -1), strict=True):
                if not part.any() and b.any():
                    continue  # of several of ours in one map some may have no adapter
                factors = _used_ranks(a, part) if len(x.paths) > 1 else (a, part)
                found.setdefault(place.removesuffix("/kernel"), {})[x.layer] = factors
    return found


def _used_ranks(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A and B without ranks whose B is 0: `write_adapter` lays adapters in one map beside each other.

    One rank stays in any case.
    """
    used = b.any(axis=1)
    used[0] |= not used.any()
    return a[:, used], b[used]


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


def _of_module(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The value that a pattern of PEFT's configuration gives to a map."""
    name, patterns = module.removeprefix(PREFIX), config.get(key) or {}
    return next((x for end, x in patterns.items() if re.match(rf"(.*\.)?({end})$", name)), default)
