"""Configurations of older versions: keys that are newer than a run."""

import copy
from typing import Any

# Keys that are newer than some runs -> what those runs were made with, as JSON has it. Every key that
# version 0.1.0 did not have is here.
NEWER_KEYS = {
    "init": "",
    "wandb": "",
    "data.split": "prompt",
    "data.numbers": 3,
    "data.validation_path": "",
    "data.test_path": "",
    "data.fields": "prompt",
    "data.long": "refuse",
    "data.corpus": "stdlib",
    "data.divider": "",
    "data.tokenizer": "characters",
    "data.separator": "",
    "data.window": 256,
    "data.prompt": 32,
    "data.test_share": 0.1,
    "noise.max_cut": 1.0,
    "data.checker": "exact",
    "evaluate.edit_threshold": 0.5,
    "evaluate.temperature": 1.0,
    "evaluate.memory": True,
    "evaluate.samples": 4,
    "evaluate.stop_at": 0,
    "evaluate.decodings": ["greedy", "sampled", "unedited"],
    "train.accumulate": 1,
    "train.frozen": "",
    "model.path": "",
    "model.preset": "",
    "model.attention": "plain",
    "model.remat": "none",
    "checkpoint.best": False,
    "train.unfrozen": "",
    "model.lora_rank": 0,
    "model.lora_alpha": 16.0,
    "model.lora_targets": "blocks",
    "model.lora_base": "float",
    "mesh.fsdp": 1,
    "rollout.noise": False,
}


def add_newer_keys(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration, completed with the keys that are newer than it.

    Sections that are missing or no sections are left for `check_config` to refuse.
    """
    added = copy.deepcopy(saved)
    for key, value in NEWER_KEYS.items():
        *path, name = key.split(".")
        section = added
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.setdefault(name, value)
    return added
