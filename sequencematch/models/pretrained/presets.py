"""Sizes of well-known models, as their public config.json has them; no weights."""

from typing import Any


def gpt2(width: int, layers: int, heads: int) -> dict[str, Any]:
    """A GPT-2 (Radford et al. 2019)."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 50_257,
        "n_positions": 1024,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
    }


def rotary(
    architecture: str, vocab_size: int, width: int, layers: int, heads: int, ff: int, **other: Any
) -> dict[str, Any]:
    """A model of one of the families with rotary positions."""
    return {
        "architectures": [f"{architecture}ForCausalLM"],
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": ff,
        **other,
    }


def llama(vocab_size: int, width: int, layers: int, heads: int, ff: int, **other: Any):
    """A Llama."""
    return rotary("Llama", vocab_size, width, layers, heads, ff, rms_norm_eps=1e-5, **other)


def llama_scaling(factor: float) -> dict[str, Any]:
    """`rope_scaling` of Llama 3.1 and later."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def llama3(width: int, layers: int, heads: int, ff: int, factor: float = 0.0, **other: Any):
    """A Llama 3; with a factor a Llama 3.1 or later."""
    scaling = llama_scaling(factor) if factor else None
    context = 131_072 if factor else 8192
    shared = dict(num_key_value_heads=8, rope_theta=5e5, rope_scaling=scaling, **other)
    return llama(128_256, width, layers, heads, ff, max_position_embeddings=context, **shared)


def smollm2(width: int, layers: int, heads: int, keys: int, ff: int, base: float = 1e5):
    """A SmolLM2, which is a Llama."""
    shared = dict(num_key_value_heads=keys, rope_theta=base, tie_word_embeddings=True)
    return llama(49_152, width, layers, heads, ff, max_position_embeddings=8192, **shared)


def qwen(version: str, width: int, layers: int, heads: int, keys: int, ff: int, **other: Any):
    """A small Qwen2 (2.5 is one) or Qwen3, tied."""
    shared = dict(num_key_value_heads=keys, rope_theta=1e6, tie_word_embeddings=True, **other)
    return rotary(version, 151_936, width, layers, heads, ff, **shared)


def gemma(width: int, layers: int, heads: int, keys: int, ff: int):
    """A Gemma 1."""
    shared = dict(num_key_value_heads=keys, head_dim=256, max_position_embeddings=8192)
    return rotary("Gemma", 256_000, width, layers, heads, ff, **shared)


# Name -> config.json; after each, the model of the Hugging Face hub that it describes.
PRESETS = {
    "gpt2": gpt2(768, 12, 12),  # openai-community/gpt2
    "gpt2-medium": gpt2(1024, 24, 16),  # openai-community/gpt2-medium
    "gpt2-large": gpt2(1280, 36, 20),  # openai-community/gpt2-large
    "gpt2-xl": gpt2(1600, 48, 25),  # openai-community/gpt2-xl
    # meta-llama/Llama-2-7b-hf
    "llama2-7b": llama(32_000, 4096, 32, 32, 11_008, max_position_embeddings=4096),
    "llama3-8b": llama3(4096, 32, 32, 14_336),  # meta-llama/Meta-Llama-3-8B
    "llama3.1-8b": llama3(4096, 32, 32, 14_336, factor=8.0),  # meta-llama/Llama-3.1-8B
    # meta-llama/Llama-3.2-1B
    "llama3.2-1b": llama3(2048, 16, 32, 8192, factor=32.0, tie_word_embeddings=True),
    "smollm2-135m": smollm2(576, 30, 9, 3, 1536),  # HuggingFaceTB/SmolLM2-135M
    "smollm2-360m": smollm2(960, 32, 15, 5, 2560),  # HuggingFaceTB/SmolLM2-360M
    "smollm2-1.7b": smollm2(2048, 24, 32, 32, 8192, 1.3e5),  # HuggingFaceTB/SmolLM2-1.7B
    # Qwen/Qwen2.5-0.5B
    "qwen2.5-0.5b": qwen("Qwen2", 896, 24, 14, 2, 4864, max_position_embeddings=32_768),
    # Qwen/Qwen3-0.6B
    "qwen3-0.6b": qwen(
        "Qwen3", 1024, 28, 16, 8, 3072, max_position_embeddings=40_960, head_dim=128
    ),
    "gemma-2b": gemma(2048, 18, 8, 1, 16_384),  # google/gemma-2b
    "gemma-7b": gemma(3072, 28, 16, 16, 24_576),  # google/gemma-7b
}
