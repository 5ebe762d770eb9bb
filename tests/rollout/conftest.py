"""A network that edits a lot, prompts, and samples from it."""

import jax
import numpy as np
import pytest
from flax import nnx

from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from sequencematch.rollout.decoding import Decoding
from tests.rollout.samples import (
    BKSPC,
    BOS,
    EOS,
    LETTERS,
    PAD,
    POP_TWO,
    RESET,
    ROWS,
    WIDTH,
    sample,
    to_numpy,
)


def offset_head(head, bias):
    """The head with its kernel doubled and a bias added to its logits."""
    offset = nnx.Linear(*head.kernel.shape, rngs=nnx.Rngs(0))
    offset.kernel[...], offset.bias[...] = 2 * head.kernel[...], bias
    return offset


@pytest.fixture(scope="package")
def model(sizes):
    """A network with high logits for edits, and the highest for ids that are not actions."""
    model = Transformer(TransformerConfig(**sizes), nnx.Rngs(3))
    bias = np.zeros(12, np.float32)
    bias[[BKSPC, POP_TWO, RESET, EOS, PAD, BOS]] = [1.5, 0.8, 0.5, 0.2, 9.0, 9.0]
    model.head = offset_head(model.head, bias)
    return model


@pytest.fixture(scope="package")
def prompts():
    """(tokens, start) of right-padded prompts of 1 to 5 tokens."""
    rng = np.random.default_rng(0)
    start = np.arange(ROWS, dtype=np.int32) % WIDTH
    tokens = rng.choice(LETTERS, size=(ROWS, WIDTH)).astype(np.int32)
    tokens[:, 0] = BOS
    return np.where(np.arange(WIDTH) <= start[:, None], tokens, PAD), start


@pytest.fixture(scope="package")
def samples(model, prompts):
    return to_numpy(sample(model, *prompts, jax.random.key(0)))


@pytest.fixture(scope="package")
def greedy_samples(model, prompts):
    return to_numpy(sample(model, *prompts, jax.random.key(0), decoding=Decoding()))
