"""Families of pretrained models: what their tensors are called, and where each stands in our tree.

A family's table is read in both directions, by `reader` and by `writer`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from sequencematch.models.sharding import path_name


class Row(NamedTuple):
    """One tensor of a checkpoint, or one of each layer.

    Attributes:
      name: its name there; {layer} stands for the number of the layer.
      paths: the parameters of ours that it holds, side by side along its last axis.
      transpose: whether it is stored as [outputs, inputs].
    """

    name: str
    paths: tuple[str, ...]
    transpose: bool = False


def linear(name: str, *paths: str, transpose: bool = True) -> tuple[Row, Row]:
    """The rows of a linear map: its weight, and its bias where it has one."""
    kernels, biases = ([f"{path}/{part}" for path in paths] for part in ("kernel", "bias"))
    return Row(f"{name}.weight", (*kernels,), transpose), Row(f"{name}.bias", (*biases,))


def norm(name: str, path: str) -> tuple[Row, Row]:
    """The rows of a norm: its gain, and its bias where it has one."""
    return Row(f"{name}.weight", (f"{path}/scale",)), Row(f"{name}.bias", (f"{path}/bias",))


EMBEDDING, HEAD, EDITS = "embedding/embedding", "head/kernel", "edits/kernel"

LLAMA = (
    Row("model.embed_tokens.weight", (EMBEDDING,)),
    *norm("model.layers.{layer}.input_layernorm", "blocks/attention_norm"),
    *linear("model.layers.{layer}.self_attn.q_proj", "blocks/attention/query"),
    *linear("model.layers.{layer}.self_attn.k_proj", "blocks/attention/key"),
    *linear("model.layers.{layer}.self_attn.v_proj", "blocks/attention/value"),
    *linear("model.layers.{layer}.self_attn.o_proj", "blocks/attention/out"),
    *norm("model.layers.{layer}.self_attn.q_norm", "blocks/attention/query_norm"),
    *norm("model.layers.{layer}.self_attn.k_norm", "blocks/attention/key_norm"),
    *norm("model.layers.{layer}.post_attention_layernorm", "blocks/feed_forward_norm"),
    *linear("model.layers.{layer}.mlp.gate_proj", "blocks/feed_forward/gate"),
    *linear("model.layers.{layer}.mlp.up_proj", "blocks/feed_forward/up"),
    *linear("model.layers.{layer}.mlp.down_proj", "blocks/feed_forward/down"),
    *norm("model.norm", "norm"),
    Row("lm_head.weight", (HEAD,), transpose=True),
)

ATTENTION = tuple(f"blocks/attention/{part}" for part in ("query", "key", "value"))
# GPT-2 stores its linear maps as [inputs, outputs], and queries, keys and values in one.
GPT2 = (
    Row("transformer.wte.weight", (EMBEDDING,)),
    Row("transformer.wpe.weight", ("positions/embedding",)),
    *norm("transformer.h.{layer}.ln_1", "blocks/attention_norm"),
    *linear("transformer.h.{layer}.attn.c_attn", *ATTENTION, transpose=False),
    *linear("transformer.h.{layer}.attn.c_proj", "blocks/attention/out", transpose=False),
    *norm("transformer.h.{layer}.ln_2", "blocks/feed_forward_norm"),
    *linear("transformer.h.{layer}.mlp.c_fc", "blocks/feed_forward/up", transpose=False),
    *linear("transformer.h.{layer}.mlp.c_proj", "blocks/feed_forward/down", transpose=False),
    *norm("transformer.ln_f", "norm"),
    Row("lm_head.weight", (HEAD,), transpose=True),
)


class Family(NamedTuple):
    """What tells one family of models from the others.

    Attributes:
      architecture: its name in config.json.
      rows: its table of tensors.
      prefix: of the tensors' names; checkpoints of the model without its head leave it out.
      sizes: our name of each size -> the one in config.json.
      defaults: what config.json means where it leaves a key out; None for what follows from others.
      fixed: what all members share, by our names.
      only: key of config.json -> the values that this network can be given, the usual one first.
      scales_embedding: whether embeddings are multiplied by sqrt(D).
    """

    architecture: str
    rows: tuple[Row, ...]
    prefix: str
    sizes: Mapping[str, str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    only: Mapping[str, tuple]
    scales_embedding: bool = False


SIZES = {
    "layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "d_ff": "intermediate_size",
    "context": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
BIASES = {"qkv_bias": "attention_bias", "out_bias": "attention_bias"}
GPT2_SIZES = {
    "layers": "n_layer",
    "d_model": "n_embd",
    "heads": "n_head",
    "kv_heads": "n_head",
    "d_ff": "n_inner",
    "context": "n_positions",
    "norm_eps": "layer_norm_epsilon",
    "tied": "tie_word_embeddings",
}
DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
GPT2_DEFAULTS = {"n_inner": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
BLOCK = dict(norm="rms", mlp="swiglu", positions="rotary", qk_norm=False)
GPT2_BLOCK = dict(norm="layer", mlp="gelu", positions="learned", qk_norm=False)
ALL_BIASES = dict(qkv_bias=True, out_bias=True, mlp_bias=True)
FULL_ATTENTION = {"hidden_act": ("silu",), "use_sliding_window": (False,)}
TANH_GELU = ("gelu_pytorch_tanh", "gelu_new")

FAMILIES = {
    "gpt2": Family(
        architecture="GPT2LMHeadModel",
        rows=GPT2,
        prefix="transformer.",
        sizes=GPT2_SIZES,
        defaults=GPT2_DEFAULTS,
        fixed=GPT2_BLOCK | ALL_BIASES,
        only={
            "activation_function": TANH_GELU[::-1],
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
    ),
    "llama": Family(
        architecture="LlamaForCausalLM",
        rows=LLAMA,
        prefix="model.",
        sizes=SIZES | BIASES | {"mlp_bias": "mlp_bias"},
        defaults=DEFAULTS,
        fixed=BLOCK,
        only={"hidden_act": ("silu",)},
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        rows=LLAMA,
        prefix="model.",
        sizes=SIZES,
        defaults=DEFAULTS,
        fixed=BLOCK | dict(qkv_bias=True, out_bias=False, mlp_bias=False),
        only=FULL_ATTENTION,
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        rows=LLAMA,
        prefix="model.",
        sizes=SIZES | BIASES,
        defaults=DEFAULTS | {"head_dim": 128},
        fixed=BLOCK | dict(qk_norm=True, mlp_bias=False),
        only=FULL_ATTENTION,
    ),
    "gemma": Family(
        architecture="GemmaForCausalLM",
        rows=LLAMA,
        prefix="model.",
        sizes=SIZES | BIASES,
        defaults=DEFAULTS | {"head_dim": 256, "tie_word_embeddings": True},
        fixed=BLOCK | dict(norm="rms_plus_one", mlp="geglu", mlp_bias=False),
        # Its first files say "gelu" and mean the tanh form; transformers reads them so.
        only={
            "hidden_act": (*TANH_GELU, "gelu"),
            "hidden_activation": (*TANH_GELU, None),
            "use_bidirectional_attention": (False, None),
        },
        scales_embedding=True,
    ),
}


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of parameters by their paths, such as blocks/attention/query/kernel."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


class Stored(NamedTuple):
    """One tensor of a checkpoint, and where it belongs.

    Attributes:
      paths: the parameters that it holds, side by side along the last axis.
      layer: which layer of these; None for parameters that are not stacked.
      transpose: whether it is stored as [outputs, inputs].
      shape: its shape in the checkpoint; of a table of tokens, without its spare rows.
    """

    paths: tuple[str, ...]
    layer: int | None
    transpose: bool
    shape: tuple[int, ...]

    @property
    def has_vocabulary(self) -> bool:
        """Whether it has one row for each token."""
        return self.paths in ((EMBEDDING,), (HEAD,))


def layout(family: str, leaves: Mapping[str, Any]) -> dict[str, Stored]:
    """Every tensor that a checkpoint of these parameters has, by name.

    Args:
      family: a key of `FAMILIES`.
      leaves: parameters by path, or their shapes.

    Raises:
      ValueError: a parameter has no place in the family's table.
    """
    found = dict(_tensors(FAMILIES[family].rows, leaves))
    left = leaves.keys() - {path for stored in found.values() for path in stored.paths} - {EDITS}
    if left:
        raise ValueError(f"the family {family} has no {', '.join(sorted(left))}")
    return found


def _tensors(rows: tuple[Row, ...], leaves: Mapping[str, Any]) -> Iterator[tuple[str, Stored]]:
    for name, paths, transpose in rows:
        if paths[0] not in leaves:
            continue
        shapes = [leaves[path].shape for path in paths]
        stacked = "{layer}" in name
        *first, _ = shapes[0][stacked:]
        shape = (*first, sum(s[-1] for s in shapes))
        for layer in range(shapes[0][0]) if stacked else [None]:
            stored = Stored(paths, layer, transpose, shape[::-1] if transpose else shape)
            yield name.format(layer=layer), stored
