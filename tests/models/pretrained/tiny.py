"""Tiny models of every family as directories, with weights that follow from the tensors' names."""

import json
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from sequencematch.models.pretrained import configs, reader
from sequencematch.models.pretrained.families import layout, leaves_by_path
from sequencematch.models.transformer import Transformer, parameter_shapes

ROWS, CONTEXT = 24, 96
SIZES = dict(vocab_size=ROWS, hidden_size=16, intermediate_size=20, num_hidden_layers=2)
SIZES |= dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT)
LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", **SIZES)
NEW_ROPE = dict(rope_type="llama3", rope_theta=100.0, factor=4.0, low_freq_factor=1.0)
NEW_ROPE |= dict(high_freq_factor=4.0, original_max_position_embeddings=16)
GPT2_SIZES = dict(vocab_size=ROWS, n_embd=16, n_layer=2, n_head=4, n_positions=CONTEXT)

# Name -> config.json, with names old and new. Every choice that a family has is made both ways.
CASES = {
    "gpt2": dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", **GPT2_SIZES),
    "llama": LLAMA | dict(rms_norm_eps=1e-5, rope_theta=500.0, torch_dtype="float32"),
    "llama, scaled": LLAMA
    | dict(rope_parameters=NEW_ROPE, tie_word_embeddings=True, dtype="float32"),
    "llama, all": LLAMA
    | dict(rope_scaling=dict(type="linear", factor=3.0), rope_theta=1000.0, head_dim=8)
    | dict(attention_bias=True, mlp_bias=True),
    "qwen2": dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", **SIZES),
    "qwen3": dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=8, **SIZES)
    | dict(tie_word_embeddings=True),
    "gemma": dict(architectures=["GemmaForCausalLM"], model_type="gemma", head_dim=8, **SIZES)
    | dict(hidden_activation=None, hidden_act="gelu", pad_token_id=None),
}
FILE = Path(__file__).parents[1] / "figures" / "pretrained.json"  # by tests/parity/make_figures.py
TOKENS = np.random.RandomState(7).randint(0, ROWS, (2, 40)).astype(np.int32)


def values(name: str, shape: tuple[int, ...], config: dict | None = None) -> np.ndarray:
    """Weights of a tensor: random, and the same wherever they are made; gains and biases near 1.

    Gemma stores its gains less 1. With gains near 2 rounding would move its gradients tenfold.
    """
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    near_one = len(shape) == 1 and (config or {}).get("model_type") != "gemma"
    return (0.3 * x + near_one).astype(np.float32)


def tensors(config: dict) -> dict[str, np.ndarray]:
    """All tensors of a model."""
    found = layout(configs.family_of(config), leaves_by_path(shapes(config)))
    return {name: values(name, stored.shape, config) for name, stored in found.items()}


def shapes(config: dict, ids: int | None = None, edits: int = 0, **precision):
    return parameter_shapes(configs.transformer_config(config, ids, edits, **precision))


def write(folder: Path, config: dict, dtype: str = "float32", **changes: np.ndarray) -> Path:
    """A model directory; tensors that are changed to None are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    kind = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    found = {name: x for name, x in (tensors(config) | changes).items() if x is not None}
    content = {name: np.ascontiguousarray(x).astype(kind) for name, x in found.items()}
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def network(
    config: dict, params, ids: int | None = None, edits: int = 0, **precision
) -> Transformer:
    """The network of parameters that have been read."""
    sizes = configs.transformer_config(config, ids, edits, **precision)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Transformer(sizes, nnx.Rngs(0))))
    return nnx.merge(graph, params)


def read(folder: Path, ids: int | None = None, edits: int = 0, **options):
    """The parameters of a model directory."""
    config = configs.read_config(folder)
    like = shapes(config, ids, edits)
    weights = reader.open_weights(folder)
    return reader.read_params(weights, configs.family_of(config), like, **options)


def contents(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a model directory."""
    weights = reader.open_weights(folder)
    return {name: weights.read(name, 0, None) for name in weights.shapes}
