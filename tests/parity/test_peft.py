"""An adapter that we write is one that PEFT reads, and the other way round."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from flax import nnx

from sequencematch.core.types import Visibility
from sequencematch.models import lora
from sequencematch.models.config import Lora
from sequencematch.models.pretrained import adapter, adapter_reader, configs
from sequencematch.models.pretrained.card import card_files
from sequencematch.models.pretrained.families import leaves_by_path
from sequencematch.models.transformer import Transformer
from tests.models.pretrained import tiny

pytestmark = pytest.mark.stress

IDS, EDITS, LENGTH = 20, 2, 12
TOKENS = np.random.default_rng(1).integers(0, IDS, (3, LENGTH))
CASES = {
    "all maps": ("llama", Lora(4, 8.0)),
    "some maps": ("qwen3", Lora(3, 1.0, "attention/(query|value)|down")),
    "a fused map": ("gpt2", Lora(4, 8.0)),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request, tmp_path_factory):
    """(family's configuration, adapters, our parameters, directory of the base without edits)."""
    name, adapters = request.param
    config = tiny.CASES[name] | {"vocab_size": IDS}
    folder = tiny.write(tmp_path_factory.mktemp("base"), config)
    base = tiny.read(folder, IDS, edits=EDITS)
    sizes = replace(configs.transformer_config(config, IDS, EDITS), lora=adapters)
    rng = np.random.default_rng(0)
    drawn = nnx.state(Transformer(sizes, nnx.Rngs(0)))
    params = lora.adapt(base, lora.adapters_of(drawn), adapters)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.float32(rng.normal(size=x.shape)) if is_trained(path) else x, params
    )
    return config, adapters, params, folder


def is_trained(path):
    return "lora" in str(path) or "edits" in str(path)


def our_logits(config, adapters, params):
    network = tiny.network(config, lora.merge(params, adapters), IDS, EDITS)
    time = jnp.broadcast_to(jnp.arange(LENGTH), TOKENS.shape)
    visibility = Visibility(time, time, jnp.full(TOKENS.shape, LENGTH))
    return network.logits(network.hidden(jnp.asarray(TOKENS), visibility))


def with_rows_for_edits(folder):
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    base.resize_token_embeddings(IDS + EDITS, mean_resizing=False)
    return base


class Symbols:
    """A tokenizer of letters, as far as the loop of the card knows it."""

    eos_token_id, bos_token_id = 0, None

    def get_vocab(self):
        return {"<bkspc>": IDS, "<reset>": IDS + 1}

    def __call__(self, text):
        return SimpleNamespace(input_ids=[ord(c) - ord("a") for c in text])


def test_peft_reads_what_we_write_as_the_card_says(case, tmp_path, monkeypatch):
    config, adapters, params, folder = case
    out, edits = tmp_path / "adapter", [*Symbols().get_vocab()]
    card = card_files("mine", edits, IDS + EDITS, IDS, {}, adapter_of=str(folder))
    never = [3, *range(IDS, IDS + EDITS)]
    card["generation_config.json"] = json.dumps({"eos_token_id": 0, "suppress_tokens": never})
    adapter.write_adapter(out, params, configs.family_of(config), adapters, str(folder), card)
    monkeypatch.chdir(out)
    load, loop = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    names = {"__name__": "card"}
    exec(load + loop, names)
    with torch.no_grad():
        found = names["model"](torch.tensor(TOKENS)).logits
    np.testing.assert_allclose(found, our_logits(config, adapters, params), rtol=1e-3, atol=1e-3)
    _, actions = names["generate"](names["model"], Symbols(), "abc", 20)
    assert names["model"].generation_config.suppress_tokens == never
    merged = names["model"].merge_and_unload()
    assert names["generate"](merged, Symbols(), "abc", 20)[1] == actions != []


def test_we_read_what_peft_writes(case, tmp_path):
    config, adapters, params, folder = case
    family = configs.family_of(config)
    adapter.write_adapter(tmp_path / "ours", params, family, adapters, str(folder))
    model = peft.PeftModel.from_pretrained(with_rows_for_edits(folder), tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    base = tiny.read(folder, IDS, edits=EDITS)
    found, state = adapter_reader.read_adapter(tmp_path / "theirs", family, base)
    merged = lora.merge(nnx.merge_state(base, state), found)
    for path, x in leaves_by_path(lora.merge(params, adapters)).items():
        np.testing.assert_allclose(
            leaves_by_path(merged)[path], x, rtol=1e-4, atol=1e-4, err_msg=path
        )
