"""Keys that have no effect are told of, and no others."""

import json

import pytest
from ml_collections import ConfigDict

from configs import arithmetic, countdown, jsonl, pretrained, text, text_pretrained
from sequencematch.setup.defaults import defaults, flatten
from sequencematch.setup.effects import DATA_KEYS, describe_effects

FILES = (arithmetic, countdown, jsonl, pretrained, text, text_pretrained)
OTHERS = {"dir", "seed", "train", "validation", "test", "split", "long"}  # of several tasks


def sentences_of(config, **changes):
    config.update_from_flattened_dict(changes)
    return [sentence for sentence in describe_effects(config) if "whatever the" not in sentence]


def test_every_key_of_the_data_is_some_tasks_or_of_several():
    owned = [key for keys in DATA_KEYS.values() for key in keys]
    assert sorted([*owned, *OTHERS]) == sorted(flatten(defaults().data))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__)
def test_of_our_own_configurations_every_key_has_its_effect(file):
    config = file.get_config()
    assert sentences_of(config) == []
    assert (
        sentences_of(ConfigDict(json.loads(json.dumps(config.to_dict())))) == []
    )  # as a run keeps it


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (jsonl, {"data.tokenizer": "bytes"}, "data.tokenizer='bytes' has no effect: task='text'"),
        (pretrained, {"data.path": "q.jsonl"}, "data.path='q.jsonl' has no effect: task='jsonl'"),
        (countdown, {"data.entropy": (1.0, 2.0)}, "task='arithmetic' reads it, not 'countdown'"),
        (text, {"data.checker": "hash"}, "task='jsonl' reads it, not 'text'"),
        (text, {"data.split": "prompt"}, "task='text' knows of no twins"),
        (text_pretrained, {"data.tokenizer": "bytes"}, "the model in model.path has its own"),
        (text, {"noise.kind": "ground_truth"}, "is 'random' here"),
        (arithmetic, {"noise.kind": "ground_truth"}, ""),
        (text, {"method": "mle", "noise.kind": "ground_truth"}, ""),
        (arithmetic, {"task": "my.tasks:function", "data.path": "q.jsonl"}, ""),
        (
            arithmetic,
            {"edits": ("<bkspc>", "<bkspc2>")},
            "no text shows <bkspc2>: with noise.run=0",
        ),
        (arithmetic, {"edits": ("<bkspc>", "<bkspc2>"), "noise.run": 0.5}, ""),
        (arithmetic, {"edits": ("<reset>",)}, ""),
        (arithmetic, {"objective.policy_weight": 0.5}, "policy_weight=0.5 has no effect with"),
        (arithmetic, {"method": "iql_offline", "objective.policy_weight": 0.5}, ""),
        (
            arithmetic,
            {"data.source": "tfds", "data.bases": (), "data.entropy": (1.0, 2.0)},
            "data.entropy=(1.0, 2.0) has no effect: published questions",
        ),
    ],
)
def test_keys_without_effect_are_told_of(file, changes, words):
    sentences = sentences_of(file.get_config(), **changes)
    assert len(sentences) == bool(words) and words in "".join(sentences)
