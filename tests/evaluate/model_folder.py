"""A tiny model with its tokenizer, as a directory."""

import json
from pathlib import Path

import numpy as np

from sequencematch.data.subword import read_tokenizer
from tests.data import tokenizer_folders
from tests.models.pretrained import tiny


def write_model(folder: Path, **changes: np.ndarray) -> dict:
    """Writes the directory; returns its config.json. `changes` are tensors by name."""
    tokenizer_folders.byte_level(folder)
    own = json.loads((folder / "config.json").read_text())
    size = read_tokenizer(folder, ()).own_size
    config = own | tiny.CASES["gpt2"] | {"vocab_size": size}
    tiny.write(folder, config, **changes)
    return config
