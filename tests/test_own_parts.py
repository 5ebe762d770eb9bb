"""A task, tokenizer, network and metric of one's own train, and nothing of the package is touched."""

import json
import sys

import jax.numpy as jnp
import pytest
from flax import nnx

from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import EDITS
from sequencematch.main import main
from tests.test_extending import SMALL

WORDS = ["<end>", "the", "a", "cat", "dog", "sat", "lay", "on", "by", "it"]


class WordTokenizer:
    """A word is an id. There is no <bos>, and <eos> pads, as with GPT-2."""

    bos, eos, pad, fingerprint, ordinary = None, 0, 0, 1, range(1, len(WORDS))

    def __init__(self, edits):
        self.table = [*WORDS, *edits]
        self.vocab_size = len(self.table)
        self.pops = {self.table.index(name): EDITS[name] for name in edits}

    def encode(self, text):
        return self.parse(text.split())

    def decode(self, ids):
        return " ".join(self.symbols(i for i in ids if i in self.ordinary))

    def symbols(self, ids):
        return [self.table[i] for i in ids]

    def parse(self, symbols):
        return [self.table.index(symbol) for symbol in symbols]


class BagOfWords(nnx.Module):
    """A text is the mean of its words; the sums of its beginnings are the cache."""

    def __init__(self, words, edits, rngs):
        self.words = nnx.Embed(words + edits, 8, rngs=rngs)
        self.logits = nnx.Linear(8, words + edits, rngs=rngs)

    def hidden(self, tokens, visibility):
        slot = jnp.arange(tokens.shape[1])
        seen = (slot <= slot[:, None]) & (slot[:, None] < visibility.visible_until[:, None])
        return seen @ self.words(tokens) / jnp.sum(seen, axis=-1, keepdims=True)

    def prefill(self, prompt, slots):
        room = [(0, 0), (0, slots - prompt.shape[1]), (0, 0)]
        sums = jnp.pad(jnp.cumsum(self.words(prompt), axis=1), room)
        return sums / jnp.arange(1, slots + 1)[:, None], sums

    def decode(self, token, depth, cache):
        row = jnp.arange(token.shape[0])
        new = cache[row, depth - 1] + self.words(token)
        return new / (depth[:, None] + 1), cache.at[row, depth].set(new, mode="drop")


def count_words(examples, answers):
    return {"words": sum(len(answer.text.split()) for answer in answers) / len(answers)}


def task(data):
    """Windows of running text: each is cut, so no <eos> is learnt."""
    begun, ended = ("the cat", "a dog"), (" sat on it", " lay by")
    windows = [Example(a, b, cut=True) for a in begun for b in ended]
    splits = {"train": windows, "validation": windows[:2], "test": windows[2:]}
    own = dict(metrics=(count_words,), judged_by="words", network=BagOfWords)
    return Task("phrases", splits, WordTokenizer, **own)


@pytest.mark.stress
def test_own_parts_train(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    room = {"prompt_slots": 3, "max_actions": 8, "evaluate.max_actions": 9, "noise.eta": 0.3}
    flags = [f"--config.{key}={value}" for key, value in (SMALL | room).items()]
    flags += ["--config=arithmetic:bc", "--config.task=own:task", f"--workdir={tmp_path}/run"]
    assert main(["main.py", *flags]) == 0, capfd.readouterr().err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["judged_by"] == "words" and summary["test"]["greedy"]["words"] >= 0
