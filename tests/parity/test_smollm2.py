"""A real model against transformers: SmolLM2-135M-Instruct, where `make smollm2` has left it."""

import inspect
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from flax import nnx

from sequencematch.cli.smollm2 import DIRECTORY
from sequencematch.core.types import Visibility
from sequencematch.models.pretrained import configs, reader
from sequencematch.models.transformer import Transformer, parameter_shapes

LENGTH = 512  # tokens of one text
FOLDER = Path(DIRECTORY).expanduser()

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(not (FOLDER / "config.json").is_file(), reason="make smollm2 fetches it"),
]


@pytest.fixture(scope="module")
def tokens():
    """int32[2, T] of real text: English and Python."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    texts = [inspect.getdoc(np.einsum), inspect.getsource(textwrap)]
    return np.array([tokenizer(text)["input_ids"][:LENGTH] for text in texts], np.int32)


@pytest.fixture(scope="module")
def their_logits(tokens):
    """float32[2, T, V]."""
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()


@pytest.fixture(scope="module")
def our_logits(tokens):
    """float32[2, T, V]."""
    sizes = configs.transformer_config(configs.read_config(FOLDER))
    params = reader.read_params(reader.open_weights(FOLDER), "llama", parameter_shapes(sizes))
    graph, _ = nnx.split(nnx.eval_shape(lambda: Transformer(sizes, nnx.Rngs(0))))
    time = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
    visibility = Visibility(time, time, jnp.full(tokens.shape, LENGTH))

    @jax.jit
    def logits(params, tokens):
        network = nnx.merge(graph, params)
        return network.logits(network.hidden(tokens, visibility))

    return logits(params, tokens)


def test_logits(our_logits, their_logits):
    """They lie between -20 and 30; float32 sums of 30 layers differ in the fourth decimal."""
    np.testing.assert_allclose(our_logits, their_logits, atol=1e-3)


def test_perplexity(our_logits, their_logits, tokens):
    ours, theirs = (
        optax.softmax_cross_entropy_with_integer_labels(x[:, :-1], tokens[:, 1:]).mean()
        for x in (jnp.asarray(our_logits), jnp.asarray(their_logits))
    )
    np.testing.assert_allclose(jnp.exp(ours), jnp.exp(theirs), rtol=1e-5)
    assert jnp.exp(theirs) < 60  # it has read such texts: untrained it would be 49,152
