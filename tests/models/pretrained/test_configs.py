"""config.json to sizes: names old and new, what is refused, and the way back."""

import json

import pytest

from sequencematch.models.config import RopeScaling
from sequencematch.models.pretrained import configs
from sequencematch.models.pretrained.presets import PRESETS
from tests.models.pretrained import tiny

LLAMA, GPT2, GEMMA = (tiny.CASES[name] for name in ("llama", "gpt2", "gemma"))


def test_old_and_new_names_mean_the_same():
    scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    scaling |= dict(original_max_position_embeddings=100)
    bare = {key: x for key, x in LLAMA.items() if key not in ("rope_theta", "torch_dtype")}
    old = bare | dict(rope_theta=7e4, rope_scaling=dict(rope_type="llama3", **scaling))
    older = bare | dict(rope_theta=7e4, rope_scaling=dict(type="llama3", **scaling))
    new = bare | dict(rope_parameters=dict(rope_theta=7e4, rope_type="llama3", **scaling))
    expected = 7e4, RopeScaling("llama3", 8.0, 1.0, 4.0, 100)
    for config in (old, older, new):
        assert configs.read_rope(config) == expected
        sizes = configs.transformer_config(config)
        assert (sizes.rope_base, sizes.rope_scaling) == expected
    assert configs.read_rope(bare) == (1e4, RopeScaling())
    new = bare | dict(rope_parameters=dict(rope_theta=3.0, rope_type="default"))
    assert configs.read_rope(new) == (3.0, RopeScaling())
    for name in ("dtype", "torch_dtype"):
        assert configs.stored_dtype(bare | {name: "bfloat16"}) == "bfloat16"
    assert configs.stored_dtype(bare) == "float32"
    with pytest.raises(
        ValueError, match="dtype='int8' in config.json is none of float32, bfloat16"
    ):
        configs.stored_dtype(bare | dict(dtype="int8"))


def test_what_a_file_leaves_out_follows_from_the_rest():
    left_out = ("num_key_value_heads", "rms_norm_eps")
    sizes = configs.transformer_config({k: x for k, x in LLAMA.items() if k not in left_out})
    assert (sizes.kv_heads, sizes.head_dim, sizes.norm_eps, sizes.tied) == (4, 4, 1e-6, False)
    gpt2, gemma = configs.transformer_config(GPT2), configs.transformer_config(GEMMA)
    assert (gpt2.d_ff, gpt2.kv_heads, gpt2.tied, gpt2.context) == (64, 4, True, tiny.CONTEXT)
    assert (gemma.tied, gemma.embedding_scale, gemma.norm) == (True, 4.0, "rms_plus_one")


def test_the_vocabulary_is_the_tokenizers():
    sizes = configs.transformer_config(LLAMA, ids=20, edits=3, dtype="bfloat16")
    assert (sizes.vocab_size, sizes.edits, sizes.embedding_rows) == (23, 3, 20)
    assert sizes.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(architectures=["MistralForCausalLM"]), "Mistral.* is not supported; these are: GPT2"),
        (dict(architectures=None, model_type="rwkv"), "the architecture rwkv is not supported"),
        (dict(hidden_act="relu"), "hidden_act='relu' in config.json is not supported for Llama"),
        (
            dict(rope_scaling=dict(type="yarn", factor=2.0)),
            "rope_type='yarn' in config.json is not",
        ),
        (dict(partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
        (dict(quantization_config=dict(quant_method="gptq")), "the weights are quantised by gptq"),
        (dict(hidden_size=18), "model.d_model=18 must be a multiple of"),
    ],
)
def test_what_the_network_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        configs.transformer_config(LLAMA | changes)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_a_scaling_without_its_numbers_is_refused(kind):
    with pytest.raises(ValueError, match=f"rope_type='{kind}' in config.json lacks factor"):
        configs.read_rope({"rope_scaling": {"rope_type": kind, "high_freq_factor": 4.0}})


def test_the_length_of_pretraining_is_the_models_where_its_scaling_says_none():
    """As transformers has it."""
    scaling = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    config = {"rope_scaling": scaling, "max_position_embeddings": 32_768}
    assert configs.read_rope(config)[1].context == 32_768
    scaling["original_max_position_embeddings"] = 8192
    assert configs.read_rope(config)[1].context == 8192


def test_a_window_is_refused():
    with pytest.raises(ValueError, match="use_sliding_window=True"):
        configs.transformer_config(tiny.CASES["qwen2"] | dict(use_sliding_window=True))


def test_a_size_that_is_missing_is_named():
    config = {key: x for key, x in LLAMA.items() if key != "hidden_size"}
    with pytest.raises(ValueError, match="config.json does not say hidden_size"):
        configs.transformer_config(config)


def test_an_id_without_a_row_is_refused():
    with pytest.raises(ValueError, match="has the id 24, but the embedding has 24 rows"):
        configs.transformer_config(LLAMA, ids=25)


def test_a_hub_name_tells_how_to_download(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="`hf download Qwen/Qwen3-0.6B --local-dir Qwen3-0.6B`"):
        configs.read_config("Qwen/Qwen3-0.6B")
    with pytest.raises(ValueError, match="hf download gpt2 --local-dir gpt2"):
        configs.read_config("gpt2")
    with pytest.raises(ValueError, match="nowhere/at/all is not a directory"):
        configs.read_config("nowhere/at/all")


def test_a_directory_without_a_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no config.json: name the directory of a model"):
        configs.read_config(tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "must hold a JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            configs.read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert configs.read_config(str(tmp_path)) == LLAMA


# Numbers of parameters as their authors publish them, or as transformers counts.
PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
}


def test_presets_have_the_published_numbers_of_parameters():
    sizes = {name: configs.transformer_config(config) for name, config in PRESETS.items()}
    assert {name: x.matrices + x.vectors for name, x in sizes.items()} == PARAMETERS
