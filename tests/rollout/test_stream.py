"""A streamed answer equals the sampler's."""

import numpy as np
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.keys import Purpose, random_key
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from sequencematch.rollout import sampler, stream
from sequencematch.rollout.decoding import Decoding

PAD, BOS, EOS, BKSPC = range(4)
MDP = mdp.make(12, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})
ACTIONS, KEY = 8, random_key(5, Purpose.ANSWERS)
PROMPTS = np.array([[BOS, 5, 6, PAD], [BOS, PAD, PAD, PAD], [BOS, 9, 8, 7]], np.int32)
START = np.array([2, 0, 3], np.int32)
GREEDY = Decoding(threshold=0.1, memory=True)
DRAW = Decoding(None, bias=1.0, temperature=1.0, memory=True)


@pytest.fixture(scope="module")
def model(sizes):
    """A network that sometimes edits and sometimes ends."""
    model = Transformer(TransformerConfig(**sizes | {"layers": 1}), nnx.Rngs(3))
    head = nnx.Linear(*model.head.kernel.shape, rngs=nnx.Rngs(0))
    head.kernel[...] = 2 * model.head.kernel[...]
    head.bias[...] = np.eye(12, dtype=np.float32)[BKSPC] + np.eye(12, dtype=np.float32)[EOS]
    model.head = head
    return model


def stream_row(model, row, decoding):
    graph, params = nnx.split(model)
    how = sampler.Sampling(ACTIONS, decoding)
    return list(stream.actions(graph, MDP, params, PROMPTS[row], int(START[row]), KEY, how))


def sample_rows(model, rows, decoding):
    """The actions of each of these rows."""
    how = sampler.Sampling(ACTIONS, decoding)

    @nnx.jit
    def run(model, *rest):
        return sampler.episodes(MDP, sampler.sample(model, MDP, *rest, how))

    episodes = run(model, PROMPTS[rows], START[rows], KEY)
    tokens, start, end = map(np.asarray, (episodes.tokens, episodes.start, episodes.end))
    return [t[s + 1 : e + 1].tolist() for t, s, e in zip(tokens, start, end, strict=True)]


@pytest.mark.stress
def test_greedy_stream_equals_the_sampler_row_by_row(model):
    expected = sample_rows(model, slice(None), GREEDY)
    assert [stream_row(model, row, GREEDY) for row in range(3)] == expected
    # Some rows ended with <eos> and some at the limit, and some held an edit.
    assert {EOS in actions for actions in expected} == {True, False}
    assert any(BKSPC in actions for actions in expected)
    for actions in expected:
        assert len(actions) == ACTIONS or actions[-1] == EOS


@pytest.mark.stress
def test_drawn_stream_equals_a_batch_of_one(model):
    (expected,) = sample_rows(model, slice(0, 1), DRAW)
    assert stream_row(model, 0, DRAW) == expected != sample_rows(model, slice(0, 1), GREEDY)[0]
