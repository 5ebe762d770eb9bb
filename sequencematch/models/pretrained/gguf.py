"""Llama-architecture models in GGUF, the file format of llama.cpp, as config.json and weights."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from sequencematch.models.pretrained.presets import llama_scaling
from sequencematch.models.pretrained.reader import Weights
from sequencematch.storage.files import expand

# Name in GGUF -> name in the table of the family, each with its .weight or .bias.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Divisors of the rotary frequencies, which a Llama 3.1 or later has instead of a key.
ROPE_DIVISORS = "rope_freqs.weight"

Get = Callable[..., Any]  # (key, default) -> value of a key of the file


class GgufModel(NamedTuple):
    """A model in one GGUF file.

    Attributes:
      config: the config.json that it would have.
      weights: its tensors, by the names of the family `llama`, dequantised to float32 when read.
      get: (key, default) -> a value of its metadata, such as `tokenizer.ggml.tokens`.
    """

    config: dict[str, Any]
    weights: Weights
    get: Get


def open_gguf(path: str | Path) -> GgufModel:
    """Opens a GGUF file; reads its metadata and no tensor.

    Raises:
      ValueError, OSError: it is damaged, or no Llama that this network can be.
    """
    path = expand(path)
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path} is truncated or not GGUF ({error}): download it again") from error

    def get(key: str, default: Any = None) -> Any:
        return reader.fields[key].contents() if key in reader.fields else default

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = gguf_config(str(path), get, tensors)
    divisors = tensors.pop(ROPE_DIVISORS, None)
    if divisors is not None:
        config["rope_scaling"] = llama3_scaling(str(path), divisors.data, config)
    return GgufModel(config, gguf_weights(str(path), tensors, config), get)


def gguf_config(path: str, get: Get, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a GGUF file.

    Args:
      path: for messages.
      get: reads its metadata.
      tensors: its tensors by name.

    Raises:
      ValueError: it is no Llama that this network can be, or lacks a size.
    """
    check_llama(path, get)
    heads, width = get("llama.attention.head_count"), get("llama.embedding_length")
    found = {
        "hidden_size": width,
        "intermediate_size": get("llama.feed_forward_length"),
        "num_hidden_layers": get("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("llama.attention.head_count_kv", heads),
        "max_position_embeddings": get("llama.context_length"),
        # A float32 there: 1e-5 would read 9.99999974e-06.
        "rms_norm_eps": float(f"{get('llama.attention.layer_norm_rms_epsilon', math.nan):.6g}"),
    }
    lacking = [key for key, value in found.items() if value is None or value != value]
    if lacking or "token_embd.weight" not in tensors:
        raise ValueError(f"{path} does not say {', '.join(lacking) or 'its embedding'}")
    rows = int(tensors["token_embd.weight"].shape[-1])  # axes are in reverse order there
    special = {key: get(f"tokenizer.ggml.{key}") for key in ("bos_token_id", "eos_token_id")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": rows,
        **found,
        "head_dim": get("llama.attention.key_length", width // heads),
        "rope_theta": float(get("llama.rope.freq_base", 10_000.0)),
        "rope_scaling": rope_scaling(get),
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "tie_word_embeddings": "output.weight" not in tensors,
        **special,
        "pad_token_id": get("tokenizer.ggml.padding_token_id"),
        "torch_dtype": "float32",
    }


def check_llama(path: str, get: Get) -> None:
    """Raises ValueError if a GGUF file is not of a Llama, or of one with experts."""
    name, experts = get("general.architecture"), get("llama.expert_count", 0)
    if name != "llama" or experts:
        what = f"{experts} experts in each layer" if experts else f"the architecture {name}"
        raise ValueError(
            f"{path} has {what}; of GGUF files those of Llama's architecture can be read: name the "
            "model's directory with config.json and *.safetensors instead"
        )
    partial = get("llama.rope.dimension_count")
    heads, width = get("llama.attention.head_count"), get("llama.embedding_length")
    N = get("llama.attention.key_length", width // heads if width and heads else None)
    if partial is not None and partial != N:
        raise ValueError(f"{path} rotates {partial} of the {N} dimensions of a head, not all")


def rope_scaling(get: Get) -> dict[str, Any] | None:
    """`rope_scaling` of config.json; a kind that is not built is refused where that is read."""
    kind = get("llama.rope.scaling.type", "linear")  # as llama.cpp takes what does not say it
    factor = float(get("llama.rope.scaling.factor", get("llama.rope.scale_linear", 1.0)))
    is_plain = kind == "none" or (kind == "linear" and factor == 1)
    return None if is_plain else {"rope_type": kind, "factor": factor}


def llama3_scaling(path: str, divisors: np.ndarray, config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_scaling` of a Llama 3.1 or later, found from what it divides the frequencies by.

    Raises:
      ValueError: no factor with the other numbers of Llama 3.1 gives these divisors.
    """
    scaling = llama_scaling(float(divisors.max()))
    factor, low, high = (scaling[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = scaling["original_max_position_embeddings"]
    half = config["head_dim"] // 2
    frequency = config["rope_theta"] ** (-np.arange(half) / half)
    kept = np.clip((context * frequency / (2 * np.pi) - low) / (high - low), 0, 1)
    expected = 1 / (kept + (1 - kept) / factor)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
        raise ValueError(f"{path} scales its rotary positions in another way than Llama 3.1 does")
    return scaling


def gguf_weights(path: str, tensors: Mapping[str, Any], config: Mapping[str, Any]) -> Weights:
    """The tensors of a GGUF file by the names and in the layout of the family `llama`.

    Args:
      path: for messages.
      tensors: by their names there.
      config: gives the numbers of heads.
    """
    by_name = {tensor_name(name): tensor for name, tensor in tensors.items()}
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }

    def read(name: str, first: int = 0, end: int | None = None) -> np.ndarray:
        tensor = by_name[name]
        try:
            value = gguf.dequantize(tensor.data[first:end], tensor.tensor_type)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise ValueError(
                f"{name} in {path} is quantised as {kind}, which is not read"
            ) from error
        turned = [count for part, count in heads.items() if f".{part}." in name]
        return unpermute(value, *turned) if turned else value

    shapes = {name: tuple(map(int, tensor.shape[::-1])) for name, tensor in by_name.items()}
    return Weights(path, shapes, read)


def tensor_name(name: str) -> str:
    """The name of a GGUF tensor in the family's table; as it is where it has none there."""
    whole, _, kind = name.rpartition(".")
    if layer := re.fullmatch(r"blk\.(\d+)\.(\w+)", whole):
        part = LAYER_NAMES.get(layer[2], layer[2])
        return f"model.layers.{layer[1]}.{part}.{kind}"
    return f"{NAMES.get(whole, whole)}.{kind}"


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Puts the rows of queries or keys back in order: llama.cpp rotates the pairs (x_2i, x_2i+1).

    Args:
      rows: [heads N, ...], of a weight or a bias.
      heads: their number.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
