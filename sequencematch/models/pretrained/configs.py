"""config.json, with the names of all versions of transformers, to the sizes of our network and back."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sequencematch.models.config import RopeScaling, TransformerConfig
from sequencematch.models.pretrained.families import FAMILIES, Family
from sequencematch.storage.files import expand

# rope_type of config.json -> a key of `layers.ROPE_SCALINGS`.
ROPE_KINDS = {"default": "none", "linear": "linear", "llama3": "llama3"}
ROPE_SIZES = {
    "factor": "factor",
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "context": "original_max_position_embeddings",
}
# Keys of `ROPE_SIZES` that a kind cannot do without.
ROPE_NEEDS = {"default": (), "linear": ("factor",), "llama3": tuple(ROPE_SIZES)}
DTYPES = ("float32", "bfloat16", "float16")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The content of a model directory's config.json.

    Raises:
      ValueError, OSError: there is no such directory, or no config.json that can be read.
    """
    path = expand(folder)
    check_folder(path, str(folder))
    file = path / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{path} has no config.json: name the directory of a model as Hugging Face has it, with "
            "config.json, *.safetensors and tokenizer.json"
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} must hold a JSON object")
    return found


def check_folder(path: Path, name: str) -> None:
    """Raises ValueError if there is no such directory; says how a model of that name is downloaded."""
    if path.is_dir():
        return
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not path.exists():
        folder = name.rpartition("/")[2]
        raise ValueError(
            f"there is no directory {name}, and nothing is downloaded here: if it is a model of the "
            f"Hugging Face hub, run `hf download {name} --local-dir {folder}` and name {folder}"
        )
    raise ValueError(f"{path} is not a directory: name the one that holds the model's config.json")


def family_of(config: Mapping[str, Any]) -> str:
    """The family of a config.json, a key of `FAMILIES`.

    Raises:
      ValueError: its architecture is none of them, or its weights are quantised.
    """
    names = config.get("architectures") or [config.get("model_type", "none")]
    by_name = {family.architecture: name for name, family in FAMILIES.items()}
    # Files of the model without its head may say nothing but the type.
    found = [by_name.get(name, name if name in FAMILIES else None) for name in names]
    if len(found) != 1 or found[0] is None:
        raise ValueError(
            f"the architecture {', '.join(map(str, names))} is not supported; these are: "
            f"{', '.join(by_name)}"
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "some method")
        raise ValueError(
            f"the weights are quantised by {method}: name the directory of the model before that"
        )
    return found[0]


def transformer_config(
    config: Mapping[str, Any], ids: int | None = None, edits: int = 0, **precision: str
) -> TransformerConfig:
    """The sizes of our network for a config.json.

    Args:
      config: the content of a config.json, or a value of `presets.PRESETS`.
      ids: one more than the tokenizer's largest id, edits left out; by default all rows of the
        embedding. Rows from there on are spare: the network has none of them.
      edits: number of edits, whose ids follow.
      **precision: dtype, param_dtype, attention and remat of `TransformerConfig`.

    Raises:
      ValueError: the network cannot be what the file asks for, or has no row for some id.
    """
    family, rows = FAMILIES[family_of(config)], _value(config, "vocab_size", {})
    ids = rows if ids is None else ids
    if ids > rows:
        raise ValueError(
            f"the tokenizer has the id {ids - 1}, but the embedding has {rows} rows: tokenizer.json "
            "and config.json are not of one model"
        )
    _check_only(config, family)
    given = {our: _value(config, key, family.defaults) for our, key in family.sizes.items()}
    D, H = given["d_model"], given["heads"]
    follows = dict(kv_heads=H, d_ff=4 * D, head_width=0)
    sizes = {key: follows[key] if x is None else x for key, x in given.items()} | family.fixed
    if sizes.get("head_width", 0) * H == D:
        sizes["head_width"] = 0
    base, scaling = read_rope(config)
    scale = D**0.5 if family.scales_embedding else 1.0
    return TransformerConfig(
        vocab_size=ids + edits,
        edits=edits,
        rope_base=base,
        rope_scaling=scaling,
        embedding_scale=scale,
        **sizes,
        **precision,
    )


def _value(config: Mapping[str, Any], key: str, defaults: Mapping[str, Any]) -> Any:
    if key not in config and key not in defaults:
        raise ValueError(f"config.json does not say {key}")
    return config.get(key, defaults.get(key))


def _check_only(config: Mapping[str, Any], family: Family) -> None:
    for key, allowed in family.only.items():
        value = config.get(key, allowed[0])
        if value not in allowed:
            raise ValueError(
                f"{key}={value!r} in config.json is not supported for {family.architecture}; "
                f"it may be {' or '.join(map(repr, allowed))}"
            )


def read_rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling]:
    """The base of the rotary frequencies and their scaling: `rope_parameters`, or the older two keys.

    Raises:
      ValueError: a scaling that is not built, or lacks a number.
    """
    old = {"rope_theta": config.get("rope_theta", 10_000.0), **(config.get("rope_scaling") or {})}
    found = old | (config.get("rope_parameters") or {})
    if "max_position_embeddings" in config:
        found.setdefault(ROPE_SIZES["context"], config["max_position_embeddings"])
    kind = found.get("rope_type", found.get("type", "default"))
    partial = config.get("partial_rotary_factor", found.get("partial_rotary_factor", 1.0))
    if kind not in ROPE_KINDS or partial != 1.0:
        wrong = f"rope_type={kind!r}" if partial == 1.0 else f"partial_rotary_factor={partial}"
        raise ValueError(
            f"{wrong} in config.json is not supported; rope_type may be {', '.join(ROPE_KINDS)}"
        )
    sizes = {ours: theirs for ours, theirs in ROPE_SIZES.items() if ours in ROPE_NEEDS[kind]}
    if lacking := [theirs for theirs in sizes.values() if theirs not in found]:
        raise ValueError(f"rope_type={kind!r} in config.json lacks {', '.join(lacking)}")
    given = {ours: found[theirs] for ours, theirs in sizes.items()}
    return float(found["rope_theta"]), RopeScaling(ROPE_KINDS[kind], **given)


def stored_dtype(config: Mapping[str, Any]) -> str:
    """The dtype in which a model's weights are stored, by its config.json; float32 if it says none.

    Raises:
      ValueError: it is none of `DTYPES`.
    """
    given = config.get("dtype") or config.get("torch_dtype") or "float32"
    name = str(given).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} in config.json is none of {', '.join(DTYPES)}")
    return name
