"""Weights from safetensors: whole, in several files, and every way in which they can be wrong."""

import gc
import json
import weakref

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from sequencematch.models import lora
from sequencematch.models.pretrained import configs, reader
from sequencematch.models.pretrained.families import EDITS, leaves_by_path
from tests.models.pretrained import tiny

CONFIG = tiny.CASES["llama"]
NAME = "model.layers.1.mlp.up_proj.weight"


def test_parameters_stand_where_they_belong(tmp_path):
    """Layers stacked, matrices as [inputs, outputs], and queries, keys and values of GPT-2 apart."""
    leaves = leaves_by_path(tiny.read(tiny.write(tmp_path / "llama", CONFIG)))
    up = leaves["blocks/feed_forward/up/kernel"]
    np.testing.assert_array_equal(up[1], tiny.values(NAME, (20, 16)).T)
    head = tiny.values("lm_head.weight", (24, 16))
    np.testing.assert_array_equal(leaves["head/kernel"], head.T)
    leaves = leaves_by_path(tiny.read(tiny.write(tmp_path / "gpt2", tiny.CASES["gpt2"])))
    name = "transformer.h.0.attn.c_attn"
    weight, bias = tiny.values(f"{name}.weight", (16, 48)), tiny.values(f"{name}.bias", (48,))
    for i, part in enumerate(("query", "key", "value")):
        found = leaves[f"blocks/attention/{part}/kernel"][0]
        np.testing.assert_array_equal(found, weight[:, 16 * i : 16 * i + 16])
        found = leaves[f"blocks/attention/{part}/bias"][0]
        np.testing.assert_array_equal(found, bias[16 * i : 16 * i + 16])


def test_bfloat16_is_read_exactly(tmp_path):
    """As the same bits, or as float32 of the same value."""
    folder = tiny.write(tmp_path / "model", CONFIG, "bfloat16")
    kept = tiny.shapes(CONFIG, param_dtype="bfloat16")
    half = reader.read_params(reader.open_weights(folder), "llama", kept)
    up = leaves_by_path(half)["blocks/feed_forward/up/kernel"]
    expected = tiny.values(NAME, (20, 16)).astype(ml_dtypes.bfloat16).T
    assert up.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(up[1], expected)
    up = leaves_by_path(tiny.read(folder))["blocks/feed_forward/up/kernel"]
    assert up.dtype == np.float32
    np.testing.assert_array_equal(up[1], expected.astype(np.float32))


def test_spare_rows_are_left_out_and_edits_start_from_the_mean_row(tmp_path):
    leaves = leaves_by_path(tiny.read(tiny.write(tmp_path / "model", CONFIG), ids=20, edits=2))
    head = tiny.values("lm_head.weight", (24, 16))[:20]
    np.testing.assert_array_equal(leaves["head/kernel"], head.T)
    assert leaves["embedding/embedding"].shape == (20, 16)
    for edit in range(2):
        np.testing.assert_allclose(leaves[EDITS][:, edit], head.mean(axis=0), atol=1e-6)


def test_stored_edits_are_read(tmp_path):
    folder = tiny.write(tmp_path / "model", CONFIG)
    leaves = leaves_by_path(tiny.read(folder, ids=20, edits=2, edit_rows=(0, 1)))
    head = tiny.values("lm_head.weight", (24, 16))
    np.testing.assert_array_equal(leaves[EDITS], head[20:22].T)
    with pytest.raises(
        ValueError, match="23 tokens and 2 edits in its tokenizer, but 24 rows in lm"
    ):
        tiny.read(folder, ids=23, edits=2, edit_rows=(0, 1))
    # Some of them, in another order.
    leaves = leaves_by_path(tiny.read(folder, ids=20, edits=3, edit_rows=(2, None, 0)))
    np.testing.assert_array_equal(leaves[EDITS][:, [0, 2]], head[[22, 20]].T)
    np.testing.assert_allclose(leaves[EDITS][:, 1], head[:20].mean(axis=0), atol=1e-6)


def test_all_that_is_wrong_is_in_one_error(tmp_path):
    folder = tiny.write(tmp_path / "model", CONFIG)
    found = tiny.contents(folder)
    del found["model.norm.weight"], found["model.layers.0.self_attn.q_proj.weight"]
    found |= {NAME: np.zeros((20, 17), np.float32), "model.layers.2.odd": np.zeros(3, np.float32)}
    save_file(found, folder / "model.safetensors")
    with pytest.raises(ValueError) as error:
        tiny.read(folder)
    assert str(error.value) == (
        f"the tensors of {folder} are not those of its config.json: missing: "
        "model.layers.0.self_attn.q_proj.weight, model.norm.weight; left over: model.layers.2.odd; of "
        "another shape: model.layers.1.mlp.up_proj.weight is (20, 17), not (20, 16)"
    )


def test_names_without_a_prefix_and_buffers_are_read(tmp_path):
    """As checkpoints of GPT-2 have them on the hub."""
    folder = tiny.write(tmp_path / "model", tiny.CASES["gpt2"])
    expected = tiny.read(folder)
    found = {name.removeprefix("transformer."): x for name, x in tiny.contents(folder).items()}
    found |= {
        "h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32),
        "h.0.attn.masked_bias": np.ones(1),
    }
    found["h.0.attn.masked_bias"] = np.ones(1, np.float32)
    save_file(found, folder / "model.safetensors")
    same(tiny.read(folder), expected)


def test_a_tied_head_may_be_stored_twice_but_not_differ(tmp_path):
    config = tiny.CASES["llama, scaled"]
    rows = tiny.values("model.embed_tokens.weight", (24, 16))
    expected = tiny.read(tiny.write(tmp_path / "model", config))
    same(tiny.read(tiny.write(tmp_path / "model", config, **{"lm_head.weight": rows})), expected)
    folder = tiny.write(tmp_path / "model", config, **{"lm_head.weight": 2 * rows})
    with pytest.raises(ValueError, match="left over: lm_head.weight$"):
        tiny.read(folder)


def same(a, b):
    a, b = leaves_by_path(a), leaves_by_path(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])


# Files.


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"pickled weights \(pytorch_model.bin\).*save_pretrained"):
        reader.open_weights(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no weights: neither model.safetensors nor"):
        reader.open_weights(tmp_path)


@pytest.mark.parametrize("size", [0, 5, 40, -7])
def test_a_truncated_file_is_named(tmp_path, size):
    file = tiny.write(tmp_path / "model", CONFIG) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match="model.safetensors is truncated or damaged") as error:
        reader.open_weights(file.parent)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_file_of_several_is_named(tmp_path):
    folder = tiny.write(tmp_path / "model", CONFIG)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    weight_map = dict.fromkeys(tiny.tensors(CONFIG), "a.safetensors") | {NAME: "b.safetensors"}
    (folder / reader.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(
        ValueError, match=r"b.safetensors is missing, though model.safetensors.index"
    ):
        reader.open_weights(folder)
    (folder / reader.INDEX).write_text("{}")
    with pytest.raises(ValueError, match="is damaged: it has no weight_map"):
        reader.open_weights(folder)


def test_integers_are_no_weights(tmp_path):
    save_file({"x": np.zeros(3, np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match="x in .* is stored as I8; weights may be float32, bfloat16"
    ):
        reader.open_weights(tmp_path)


def test_only_the_rows_asked_for_are_read(tmp_path):
    weights = reader.open_weights(tiny.write(tmp_path / "model", CONFIG))
    rows = weights.read("lm_head.weight", 3, 7)
    np.testing.assert_array_equal(rows, tiny.values("lm_head.weight", (24, 16))[3:7])
    assert configs.family_of(CONFIG) == "llama"


@pytest.mark.exhaustive
@pytest.mark.stress
def test_the_host_holds_one_tensor_at_a_time(tmp_path):
    """When a tensor is read, none of those before it is in memory any more."""
    weights = reader.open_weights(tiny.write(tmp_path / "model", CONFIG))
    alive, held = weakref.WeakValueDictionary(), []

    def read(name, first, end):
        gc.collect()
        held.append(len(alive))
        alive[name] = x = Traced.of(weights.read(name, first, end))
        return x

    class Traced(np.ndarray):
        """An array that can be watched."""

        @classmethod
        def of(cls, x):
            return np.array(x).view(cls)

    reader.read_params(weights._replace(read=read), "llama", tiny.shapes(CONFIG))
    assert len(held) == len(weights.shapes) and max(held) == 0


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_kernels_that_are_read_in_4_bits_are_those_of_the_whole_model(tmp_path, case):
    wide = {"llama": dict(hidden_size=64, intermediate_size=128), "gpt2": dict(n_embd=64)}
    config = tiny.CASES[case] | wide[case]
    if case == "llama":
        config |= dict(head_dim=16, num_attention_heads=4, num_key_value_heads=2)
    folder = tiny.write(tmp_path / "model", config)
    packed = lora.store_kernels(tiny.read(folder), "nf4")
    kernels = lora.nf4_kernels(packed)
    assert kernels and all(path.startswith("blocks/") for path in kernels)
    found = tiny.read(folder, nf4_kernels=kernels)
    assert jax.tree.structure(found) == jax.tree.structure(packed)
    jax.tree.map(np.testing.assert_array_equal, found, packed)
