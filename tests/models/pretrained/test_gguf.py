"""GGUF files of Llama's architecture: the same model as the directory they were made of."""

import gguf
import numpy as np
import pytest

from sequencematch.models.pretrained import configs
from sequencematch.models.pretrained.gguf import (
    LAYER_NAMES,
    NAMES,
    open_gguf,
    rope_scaling,
    unpermute,
)
from sequencematch.models.pretrained.reader import read_params
from tests.marks import stress
from tests.models.pretrained import tiny
from tests.models.pretrained.test_reader import same

SCALED = tiny.CASES["llama, scaled"]["rope_parameters"]
CONFIG = tiny.CASES["llama"] | dict(hidden_size=32, intermediate_size=64)
KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}


def gguf_name(name):
    """The name that llama.cpp gives to a tensor."""
    for ours, theirs in {v: k for k, v in NAMES.items()}.items():
        if name.startswith(ours + "."):
            return name.replace(ours, theirs)
    _, _, layer, part = name.split(".", 3)
    part, _, kind = part.rpartition(".")
    return f"blk.{layer}.{ {v: k for k, v in LAYER_NAMES.items()}[part] }.{kind}"


def permute(rows, heads):
    """As llama.cpp does with queries and keys: halves of a head are interleaved."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def stored_rows(name, x, config):
    part = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    heads = [config[key] for word, key in part.items() if word in name]
    return permute(x, *heads) if heads else x


def write_gguf(path, config, kind=gguf.GGMLQuantizationType.F32, architecture="llama", **other):
    """A GGUF file of the tiny model of a config.json; matrices are stored as `kind`."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, name in KEYS.items():
        writer.add_uint32(f"llama.{key}", config[name])
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.get("rms_norm_eps", 1e-6))
    writer.add_float32("llama.rope.freq_base", config.get("rope_theta", 1e4))
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for key, value in other.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(
            f"llama.{key.replace('__', '.')}", value
        )
    for name, x in tiny.tensors(config).items():
        rows = np.ascontiguousarray(stored_rows(name, x, config))
        if x.ndim == 2:
            writer.add_tensor(gguf_name(name), gguf.quantize(rows, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), rows)
    if "rope_parameters" in config:
        writer.add_tensor("rope_freqs.weight", divisors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def divisors(config):
    """What llama.cpp divides the frequencies of a Llama 3.1 by, from its formula, one by one."""
    rope, found = config["rope_parameters"], []
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    for i in range(half):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / half)
        longest = rope["original_max_position_embeddings"]
        smooth = (longest / wavelength - 1) / (4 - 1)
        smooth = min(1, max(0, smooth))
        found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(found, np.float32)


def read(path):
    model = open_gguf(path)
    return model, read_params(model.weights, "llama", tiny.shapes(model.config))


@pytest.mark.parametrize("name", ["untied", stress("tied"), stress("biases")])
def test_a_gguf_file_is_the_model_it_was_made_of(tmp_path, name):
    changes = dict(tie_word_embeddings=name == "tied")
    changes |= dict(attention_bias=name == "biases", mlp_bias=name == "biases")
    config = CONFIG | changes
    model, params = read(write_gguf(tmp_path / "model.gguf", config))
    sizes, expected = (configs.transformer_config(c) for c in (model.config, config))
    assert sizes == expected
    same(params, tiny.read(tiny.write(tmp_path / "model", config)))
    assert model.get("tokenizer.ggml.tokens") == ["a", "b"]
    assert model.get("tokenizer.ggml.merges", "none") == "none"


@pytest.mark.parametrize(
    ("kind", "error"), [stress("F16", 1e-3), stress("Q8_0", 0.01), ("Q4_1", 0.1)]
)
def test_quantised_weights_are_near(tmp_path, kind, error):
    config = CONFIG | dict(hidden_size=64)
    kind = gguf.GGMLQuantizationType[kind]
    model, _ = read(write_gguf(tmp_path / "model.gguf", config, kind))
    for name, x in tiny.tensors(config).items():
        found = model.weights.read(name, 0, None)
        assert found.dtype == np.float32 and found.shape == x.shape == model.weights.shapes[name]
        assert np.abs(found - x).max() <= error * np.abs(x).max()
    part = model.weights.read("lm_head.weight", 3, 6)
    np.testing.assert_array_equal(part, model.weights.read("lm_head.weight", 0, None)[3:6])


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({}, None),
        ({"scaling.factor": 4.0}, 4.0),
        ({"scale_linear": 4.0}, 4.0),
        ({"scaling.type": "linear", "scaling.factor": 4.0, "scale_linear": 2.0}, 4.0),
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
    ],
)
def test_scaling_is_linear_where_a_file_does_not_say_its_kind(keys, factor):
    """As llama.cpp reads it, older keys too."""
    found = rope_scaling({f"llama.rope.{key}": value for key, value in keys.items()}.get)
    assert found == (factor and {"rope_type": "linear", "factor": factor})


def test_scaling_of_llama3_is_found_from_its_divisors(tmp_path):
    rope = SCALED | dict(original_max_position_embeddings=8192, rope_theta=5e5, factor=8.0)
    config = CONFIG | dict(rope_parameters=rope, rope_theta=5e5, hidden_size=128)
    model = open_gguf(write_gguf(tmp_path / "model.gguf", config))
    base, scaling = configs.read_rope(model.config)
    expected_base, expected = configs.read_rope(config)
    assert base == expected_base and scaling == expected
    other = config | dict(rope_parameters=rope | dict(original_max_position_embeddings=500))
    with pytest.raises(
        ValueError, match="scales its rotary positions in another way than Llama 3.1"
    ):
        open_gguf(write_gguf(tmp_path / "other.gguf", other))


def test_unpermute_undoes_permute():
    x = np.arange(24 * 3).reshape(24, 3)
    for heads in (1, 2, 3):
        np.testing.assert_array_equal(unpermute(permute(x, heads), heads), x)
        np.testing.assert_array_equal(unpermute(permute(x[:, 0], heads), heads), x[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(architecture="qwen2"), "the architecture qwen2; of GGUF files those of Llama's arch"),
        (dict(expert_count=8), "8 experts in each layer"),
        (dict(rope__dimension_count=4), "rotates 4 of the 8 dimensions of a head"),
    ],
)
def test_other_models_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        open_gguf(write_gguf(tmp_path / "model.gguf", CONFIG, **options))


@pytest.mark.parametrize("size", [0, 3, 100, 5000])
def test_a_damaged_file_is_named(tmp_path, size):
    path = write_gguf(tmp_path / "model.gguf", CONFIG)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="model.gguf is truncated or not GGUF") as error:
        open_gguf(path)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(OSError):
        open_gguf(tmp_path / "nothing.gguf")
