"""Adapters in PEFT's layout: their names and shapes, and back."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from sequencematch.models import lora
from sequencematch.models.config import LINEARS, Lora
from sequencematch.models.pretrained import adapter, adapter_reader, configs
from sequencematch.models.pretrained.families import leaves_by_path
from sequencematch.models.transformer import Transformer
from tests.models.pretrained import tiny

IDS, EDITS = 20, 2


def trained_model(case, adapters):
    """(family, parameters) of a tiny model with adapters that do something."""
    config = tiny.CASES[case]
    sizes = replace(configs.transformer_config(config, IDS, EDITS), lora=adapters)
    shapes = nnx.state(nnx.eval_shape(lambda: Transformer(sizes, nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jax.numpy.float32(rng.normal(size=x.shape)), shapes)
    return configs.family_of(config), params


def write(folder, case, adapters):
    family, params = trained_model(case, adapters)
    adapter.write_adapter(folder, params, family, adapters, "some/model")
    config = json.loads((folder / "adapter_config.json").read_text())
    return family, params, config, load_file(folder / "adapter_model.safetensors")


CASES = [
    ("llama", Lora(4, 8.0)),
    ("qwen3", Lora(4, 8.0, "attention/(query|value)")),
    ("gpt2", Lora(4, 8.0)),
    ("gpt2", Lora(3, 1.0, "attention/(query|value)|down")),
]


@pytest.mark.parametrize(("case", "adapters"), CASES)
def test_what_is_written_is_read(tmp_path, case, adapters):
    """As the same model, with the same rank: GPT-2's fused map has the ranks of ours together."""
    family, params, _, _ = write(tmp_path / "out", case, adapters)
    merged = lora.merge(params, adapters)
    found, state = adapter_reader.read_adapter(tmp_path / "out", family, merged)
    assert found.rank == adapters.rank
    assert all(adapters.adapts(path) for path in LINEARS if found.adapts(path))
    again = lora.merge(nnx.merge_state(without_adapters(params, adapters), state), found)
    for path, x in leaves_by_path(merged).items():
        np.testing.assert_allclose(
            leaves_by_path(again)[path], x, rtol=1e-4, atol=1e-4, err_msg=path
        )


def test_of_rank_stabilised_adapters_the_scale_is_alpha_by_the_root_of_the_rank(tmp_path):
    family, params, config, _ = write(tmp_path, "llama", Lora(4, 8.0))
    merged = lora.merge(params, Lora(4, 8.0))
    (plain, expected), changed = (
        adapter_reader.read_adapter(tmp_path, family, merged),
        config.copy(),
    )
    changed |= {"use_rslora": True, "lora_alpha": 8.0 / 4**0.5}
    (tmp_path / "adapter_config.json").write_text(json.dumps(changed))
    found, state = adapter_reader.read_adapter(tmp_path, family, merged)
    assert found == plain
    for path, x in leaves_by_path(expected).items():
        np.testing.assert_allclose(leaves_by_path(state)[path], x, rtol=1e-6, err_msg=path)


def without_adapters(params, adapters):
    """The parameters without adapters."""
    return lora.merge(params, replace(adapters, alpha=0.0))


def test_names_and_shapes_are_those_of_peft(tmp_path):
    """A is [r, inputs] and B [outputs, r]; the rows of edits are absolute."""
    _, params, config, tensors = write(tmp_path / "out", "llama", Lora(4, 8.0, "query|down"))
    prefix = "base_model.model.model.layers"
    q, down = "self_attn.q_proj", "mlp.down_proj"
    names = {f"{prefix}.{i}.{m}.lora_{x}.weight" for i in range(2) for m in (q, down) for x in "AB"}
    delta = "token_adapter.trainable_tokens_delta"
    names |= {f"base_model.model.{m}.{delta}" for m in ("model.embed_tokens", "lm_head")}
    assert tensors.keys() == names
    leaves = leaves_by_path(params)
    for side, letter, shape in (("a", "A", (4, 20)), ("b", "B", (16, 4))):
        x = tensors[f"{prefix}.1.{down}.lora_{letter}.weight"]
        assert x.shape == shape
        np.testing.assert_array_equal(x, leaves[f"blocks/feed_forward/down/lora_{side}"][1].T)
    head = tensors[f"base_model.model.lm_head.{delta}"]
    np.testing.assert_array_equal(head, leaves["edits/kernel"].T)
    assert config["target_modules"] == [down, q] and config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (4, 8.0, False)
    assert config["trainable_token_indices"] == {"embed_tokens": [20, 21], "lm_head": [20, 21]}


def test_a_fused_map_has_one_adapter(tmp_path):
    _, _, config, tensors = write(tmp_path / "out", "gpt2", Lora(4, 8.0, "query|value|out"))
    name = "base_model.model.transformer.h.0.attn.c_attn"
    assert tensors[f"{name}.lora_A.weight"].shape == (8, 16)
    b = tensors[f"{name}.lora_B.weight"]
    assert b.shape == (48, 8) and not b[16:32].any() and not b[:16, 4:].any()
    assert config["rank_pattern"] == {"attn.c_attn": 8} and config["fan_in_fan_out"]
    assert config["alpha_pattern"] == {"attn.c_attn": 16.0}
    tied = {"wte": [20, 21]}
    assert config["trainable_token_indices"] == tied


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(peft_type="IA3"), "peft_type IA3"),
        (dict(use_dora=True), "use_dora=True .* not supported"),
        (dict(use_bdlora={"nblocks": 2}), "use_bdlora=.* not supported"),
        (dict(bias="all"), "bias='all' .* not supported"),
        (dict(init_lora_weights="pissa"), "init_lora_weights='pissa' .* not supported"),
        (dict(lora_alpha=None), "does not say lora_alpha"),
        (dict(trainable_token_indices=[3, 7]), r"tokens \[3, 7\] of lm_head.*are \[20, 21\]"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, change, message):
    folder = tmp_path / "out"
    family, params, config, _ = write(folder, "llama", Lora(4, 8.0))
    like = lora.merge(params, Lora(4, 8.0))
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        adapter_reader.read_adapter(folder, family, like)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"trained tokens \[20, 21\] .* the tokenizer .* are \[\]"):
        adapter_reader.read_adapter(folder, family, tiny.shapes(tiny.CASES["llama"], IDS))
    (folder / "adapter_model.safetensors").write_bytes(b"\x08")
    with pytest.raises(ValueError, match="damaged"):
        adapter_reader.read_adapter(folder, family, like)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no adapter_model.safetensors"):
        adapter_reader.read_adapter(folder, family, like)


def test_one_adapter_of_a_fused_map_is_read_as_peft_makes_it(tmp_path):
    """Queries, keys and values share A, and have their columns of B."""
    rng, prefix = np.random.default_rng(1), "base_model.model.transformer.h"
    tensors = {}
    for layer in range(2):
        name = f"{prefix}.{layer}.attn.c_attn"
        tensors[f"{name}.lora_A.weight"] = np.float32(rng.normal(size=(4, 16)))
        tensors[f"{name}.lora_B.weight"] = np.float32(rng.normal(size=(48, 4)))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = dict(peft_type="LORA", r=4, lora_alpha=8, target_modules=["c_attn"])
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    _, params = trained_model("gpt2", Lora(1, 1.0))
    base = without_adapters(params, Lora(1, 1.0))
    found, state = adapter_reader.read_adapter(tmp_path, "gpt2", base)
    merged = leaves_by_path(lora.merge(nnx.merge_state(base, state), found))
    a, b = (tensors[f"{prefix}.1.attn.c_attn.lora_{side}.weight"] for side in "AB")
    change = 2 * (b @ a).T
    for i, name in enumerate(("query", "key", "value")):
        path = f"blocks/attention/{name}/kernel"
        expected = leaves_by_path(base)[path][1] + change[:, 16 * i : 16 * i + 16]
        np.testing.assert_allclose(merged[path][1], expected, atol=1e-4)


def rewrite(folder, change, **config):
    """Changes the tensors of an adapter on disk, and its configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    save_file(
        change(load_file(folder / "adapter_model.safetensors")),
        folder / "adapter_model.safetensors",
    )


def test_factors_of_other_ranks_are_refused(tmp_path):
    """As where B holds the blocks of a matrix alone."""
    family, params, _, _ = write(tmp_path, "llama", Lora(4, 8.0))
    rewrite(
        tmp_path, lambda tensors: {k: x[:, :2] if "lora_B" in k else x for k, x in tensors.items()}
    )
    with pytest.raises(ValueError, match="A of 4 ranks and B of 2 are no product"):
        adapter_reader.read_adapter(tmp_path, family, lora.merge(params, Lora(4, 8.0)))


def test_a_layer_without_an_adapter_is_unchanged_and_can_learn(tmp_path):
    family, params, _, _ = write(tmp_path / "out", "llama", Lora(4, 8.0))
    rewrite(tmp_path / "out", lambda x: {k: v for k, v in x.items() if ".layers.0." not in k})
    base = without_adapters(params, Lora(4, 8.0))
    found, state = adapter_reader.read_adapter(tmp_path / "out", family, base)
    merged = leaves_by_path(lora.merge(nnx.merge_state(base, state), found))
    whole = leaves_by_path(lora.merge(params, Lora(4, 8.0)))
    kernels = [path for path in merged if path.startswith("blocks/") and path.endswith("kernel")]
    assert kernels
    for path in kernels:
        np.testing.assert_array_equal(merged[path][0], leaves_by_path(base)[path][0])
        np.testing.assert_allclose(merged[path][1], whole[path][1], rtol=1e-4, atol=1e-4)
    for path, x in leaves_by_path(state).items():
        if path.endswith("lora_a"):  # B gets its gradient through it
            assert (np.abs(x[0]).sum(axis=0) > 0).all()


def test_edits_are_read_in_the_order_of_their_ids(tmp_path):
    family, params, _, _ = write(tmp_path / "out", "llama", Lora(4, 8.0))
    rows = "trainable_tokens_delta"
    rewrite(
        tmp_path / "out",
        lambda x: {k: v[::-1].copy() if k.endswith(rows) else v for k, v in x.items()},
        trainable_token_indices={"embed_tokens": [21, 20], "lm_head": [21, 20]},
    )
    _, state = adapter_reader.read_adapter(
        tmp_path / "out", family, lora.merge(params, Lora(4, 8.0))
    )
    edits = leaves_by_path(params)["edits/kernel"]
    np.testing.assert_array_equal(leaves_by_path(state)["edits/kernel"], edits)


@pytest.mark.parametrize("case", ["llama", "gpt2"])  # untied, tied
def test_an_adapter_of_the_head_is_refused(tmp_path, case):
    family, params, _, _ = write(tmp_path / "out", case, Lora(4, 8.0))
    a, b = np.zeros((4, 16), np.float32), np.zeros((20, 4), np.float32)
    head = "base_model.model.lm_head"
    rewrite(
        tmp_path / "out", lambda x: x | {f"{head}.lora_A.weight": a, f"{head}.lora_B.weight": b}
    )
    with pytest.raises(ValueError, match=r"it has base_model.model.lm_head.lora_A.weight, "):
        adapter_reader.read_adapter(tmp_path / "out", family, lora.merge(params, Lora(4, 8.0)))


def test_the_head_alone_says_how_edits_are_chosen(tmp_path):
    """Of an untied model rows of the embedding alone would be lost."""
    family, params, _, _ = write(tmp_path / "out", "llama", Lora(4, 8.0))
    rewrite(tmp_path / "out", lambda x: {k: v for k, v in x.items() if "lm_head" not in k})
    with pytest.raises(ValueError, match=r"has trained tokens \[\] of lm_head"):
        adapter_reader.read_adapter(tmp_path / "out", family, lora.merge(params, Lora(4, 8.0)))


def test_patterns_are_regular_expressions_as_in_peft(tmp_path):
    family, params, _, _ = write(tmp_path / "out", "llama", Lora(4, 8.0))
    like = lora.merge(params, Lora(4, 8.0))
    pattern = {r"layers\.\d+\.self_attn\.q_proj": 24.0, "proj": 1.0}
    _, before = adapter_reader.read_adapter(tmp_path / "out", family, like)
    rewrite(tmp_path / "out", lambda x: x, alpha_pattern=pattern)
    _, after = adapter_reader.read_adapter(tmp_path / "out", family, like)
    ratios = {"query": 3.0, "out": 1.0}
    for name, ratio in ratios.items():
        old, new = (leaves_by_path(x)[f"blocks/attention/{name}/lora_b"] for x in (before, after))
        np.testing.assert_allclose(new, ratio * old, rtol=1e-6)
