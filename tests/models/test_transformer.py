"""The law of the network: one masked pass over a trajectory equals plain passes over its states."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.reductions import action_values
from sequencematch.core.trajectory import build_trajectory
from sequencematch.core.types import Visibility
from sequencematch.models.config import Lora, TransformerConfig
from sequencematch.models.transformer import (
    UNROLL,
    Block,
    Transformer,
    draw_blocks,
    unrolled_layers,
)
from tests import oracles
from tests.marks import stress

PAD, BOS, EOS, BKSPC, POP_TWO = range(5)
LETTERS = range(5, 12)
EDITS = {BKSPC: 1, POP_TWO: 2}
MDP = mdp.make(12, eos=EOS, pad=PAD, never=[BOS], edits=EDITS)
LONGEST = 20

CASES = {
    "no edits": ([BOS, 5, 6], [7, 8, 9, 5, EOS]),
    "one popped": ([BOS, 5], [6, 7, BKSPC, 8, 9, EOS]),
    "all popped": ([BOS, 5], [6, 7, 8, BKSPC, BKSPC, BKSPC, 9, 6]),
    "at the prompt": ([BOS, 5, 6], [BKSPC, 7, BKSPC, BKSPC, POP_TWO, 8, EOS]),
    "in runs": ([BOS], [5, 6, 7, 8, BKSPC, BKSPC, 9, 10, BKSPC, BKSPC, BKSPC, 11, 5, BKSPC]),
    "two at once": ([BOS, 9], [5, 6, 7, POP_TWO, 8, POP_TWO, POP_TWO, 6, 7, EOS]),
    "only edits": ([BOS, 8, 9], [BKSPC, POP_TWO, BKSPC]),
    "nothing": ([BOS, 8, 9], []),
}


def random_cases(count):
    rng = np.random.default_rng(0)
    for i in range(count):
        prompt = [BOS, *map(int, rng.choice(LETTERS, size=rng.integers(0, 5)))]
        length = rng.integers(2, LONGEST - len(prompt) - 1)
        actions = oracles.random_actions(rng, length, ordinary=LETTERS, edits=list(EDITS))
        yield prompt, [*actions, EOS] if i % 2 else actions


STRINGS = [*CASES.values(), *random_cases(16)]


@nnx.jit
def masked_pass(model, trajectories):
    """Logits at every slot."""
    t = trajectories
    return model.logits(model.hidden(t.tokens, t.visibility))


@nnx.jit
def plain_pass(model, tokens):
    """Logits of a plain causal model at every position."""
    B, T = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    everything = Visibility(positions, positions, jnp.full((B, T), T))
    return model.logits(model.hidden(tokens, everything))


def build_trajectories(slots):
    batch = oracles.stack_episodes(
        [oracles.lay_out_episode(p, a, a, slots=slots, filler=EOS) for p, a in STRINGS]
    )
    return jax.jit(jax.vmap(partial(build_trajectory, MDP)))(batch)


@pytest.fixture(scope="module")
def plain_logits(transformer):
    """Per string, the logits after the text of each of its states, from separate plain passes."""
    texts = [text for string in STRINGS for text in oracles.texts(*string, EDITS)]
    tokens = np.full((len(texts), LONGEST), PAD, np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
    last = np.array([len(text) - 1 for text in texts])
    logits = np.asarray(plain_pass(transformer, tokens))[np.arange(len(texts)), last]
    splits = np.cumsum([len(actions) + 1 for _, actions in STRINGS])
    return np.split(logits, splits)[:-1]


@pytest.mark.parametrize("slots", [stress(LONGEST), LONGEST + 7])
def test_one_masked_pass_equals_every_plain_pass(transformer, plain_logits, slots):
    """logits[state[t]] equals the logits of a plain causal pass over s_t, with any padding."""
    trajectories = build_trajectories(slots)
    logits = np.asarray(masked_pass(transformer, trajectories))
    worst = 0.0
    for row, expected in enumerate(plain_logits):
        start, end = trajectories.start[row], trajectories.end[row]
        states = trajectories.state[row, start : end + 1]
        np.testing.assert_allclose(logits[row, states], expected, atol=1e-4, err_msg=str(row))
        worst = max(worst, np.max(abs(logits[row, start : end + 1] - expected)))
    # Without the gather some logits are wrong, so the comparison is able to fail.
    assert worst > 0.1


def test_gather_matters_exactly_after_edits(transformer, plain_logits):
    """The negative control: without the gather, the states after edits have the wrong logits."""
    trajectories = build_trajectories(LONGEST)
    logits = np.asarray(masked_pass(transformer, trajectories))
    differs = {}
    for row, name in enumerate(CASES):
        start, end = trajectories.start[row], trajectories.end[row]
        gap = abs(logits[row, start : end + 1] - plain_logits[row]).max(axis=1)
        edits = [False, *(action in EDITS for action in CASES[name][1])]
        assert ((gap > 1e-3) == edits).all(), name
        differs[name] = any(edits)
    assert not differs["no edits"] and differs["at the prompt"]


def test_causal_mask_breaks_the_law_after_an_edit(transformer, plain_logits):
    """A causal mask in place of the intervals lets a state see a popped token."""
    trajectories = build_trajectories(LONGEST)
    everything = jnp.full_like(trajectories.visible_until, LONGEST)
    logits = np.asarray(masked_pass(transformer, trajectories._replace(visible_until=everything)))
    row = list(CASES).index("one popped")
    start, end = trajectories.start[row], trajectories.end[row]
    gap = abs(logits[row, trajectories.state[row, start : end + 1]] - plain_logits[row]).max(axis=1)
    # Both agree until the edit, and no longer after the next push.
    assert (gap[:4] < 1e-4).all() and (gap[4:] > 1e-3).all()


def test_tokens_in_padding_do_not_matter(transformer):
    trajectories = build_trajectories(LONGEST)
    before = np.asarray(masked_pass(transformer, trajectories))
    padding = np.arange(LONGEST) > np.asarray(trajectories.end)[:, None]
    other = trajectories._replace(tokens=jnp.where(padding, 7, trajectories.tokens))
    after = np.asarray(masked_pass(transformer, other))
    np.testing.assert_allclose(after[~padding], before[~padding], atol=1e-5)


# The cache: the same law for pushes onto a stack.


def test_prefill_and_decode_equal_the_plain_pass(transformer):
    """Right-padded prompts, then pushes at each row's depth, over garbage left above the top."""
    rng = np.random.default_rng(1)
    text = rng.choice(LETTERS, size=(4, 9)).astype(np.int32)
    plain = np.asarray(plain_pass(transformer, text))
    length, row = np.array([2, 5, 3, 4]), np.arange(4)
    prompt = np.where(np.arange(5) < length[:, None], text[:, :5], PAD)
    hidden, cache = nnx.jit(partial(Transformer.prefill, slots=9))(transformer, prompt)
    assert hidden.shape == (4, 9, 32) and cache[0].k.shape == (4, 2, 8, 9)
    decode = nnx.jit(Transformer.decode)
    for r in row:
        read = transformer.logits(hidden[r, : length[r]])
        np.testing.assert_allclose(read, plain[r, : length[r]], atol=1e-4)
    # A token that is pushed and popped at once leaves no trace.
    _, cache = decode(transformer, jnp.full(4, 6, jnp.int32), jnp.asarray(length), cache)
    for step in range(4):
        depth = length + step
        pushed = jnp.asarray(text[row, depth])
        hidden, cache = decode(transformer, pushed, jnp.asarray(depth), cache)
        np.testing.assert_allclose(transformer.logits(hidden), plain[row, depth], atol=1e-4)


# Parameters and precision.


def log_likelihood(model, trajectories):
    t = trajectories
    hidden = model.hidden(t.tokens, t.visibility)
    states = jnp.take_along_axis(hidden, t.state[..., None], axis=1)
    log_pi = jax.nn.log_softmax(model.logits(states))
    picked = jnp.take_along_axis(log_pi, t.actions[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(t.valid, picked, 0.0))


likelihood = nnx.jit(nnx.value_and_grad(log_likelihood))


def test_every_parameter_has_a_gradient(transformer):
    value, gradients = likelihood(transformer, build_trajectories(LONGEST))
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    # Embedding, head and last norm; of all blocks two norms, four projections and three of SwiGLU.
    assert np.isfinite(value) and len(leaves) == 3 + (2 + 4 + 3)
    for path, leaf in leaves:
        assert np.isfinite(np.asarray(leaf)).all(), path
        # Of blocks, that of each layer.
        layers = leaf if "blocks" in jax.tree_util.keystr(path) else [leaf]
        assert min(map(np.linalg.norm, layers)) > 1e-3, path


@pytest.mark.stress
def test_bfloat16_activations_are_close_to_float32(transformer, sizes):
    half = Transformer(TransformerConfig(**sizes, dtype="bfloat16"), nnx.Rngs(0))
    trajectories = build_trajectories(LONGEST)
    exact, logits = (masked_pass(m, trajectories) for m in (transformer, half))
    assert exact.dtype == logits.dtype == jnp.float32
    gap = np.asarray(abs(exact - logits))
    assert 1e-4 < gap.max() < 0.2 and gap.mean() < 0.02
    kernel = half.blocks.feed_forward.up.kernel[...]
    assert kernel.dtype == jnp.float32
    hidden = nnx.jit(lambda m, t: m.hidden(t.tokens, t.visibility))(half, trajectories)
    assert hidden.dtype == jnp.bfloat16


@pytest.mark.stress
def test_initialisation_is_a_function_of_the_seed(sizes):
    def leaves(seed):
        return jax.tree.leaves(
            nnx.state(Transformer(TransformerConfig(**sizes | {"layers": 1}), nnx.Rngs(seed)))
        )

    for same, again, other in zip(leaves(3), leaves(3), leaves(4), strict=True):
        np.testing.assert_array_equal(same, again)
        assert (np.asarray(same) == 1).all() or np.any(np.asarray(same) != np.asarray(other))


def test_bfloat16_logits_are_summed_in_float32(sizes):
    """Q and V are those of the float32 product of the same bfloat16 inputs, not of rounded logits."""
    half = Transformer(TransformerConfig(**sizes, dtype="bfloat16"), nnx.Rngs(0))
    hidden = 5 * jax.random.normal(jax.random.key(1), (40, sizes["d_model"]), jnp.bfloat16)
    logits = half.logits(hidden)
    kernel = half.head.kernel[...].astype(jnp.bfloat16)
    product = hidden.astype(jnp.float32) @ kernel.astype(jnp.float32)
    assert logits.dtype == jnp.float32
    actions, legal = jnp.arange(40) % sizes["vocab_size"], np.ones(sizes["vocab_size"], bool)
    found, expected = (action_values(x, actions, legal) for x in (logits, product))
    np.testing.assert_allclose(found.q, expected.q, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.v, expected.v, rtol=1e-5)
    # Logits rounded to bfloat16 would be off by a thousand times as much.
    rounded = action_values(product.astype(jnp.bfloat16), actions, legal)
    assert np.abs(rounded.v - expected.v).max() > 1e-3


@pytest.mark.stress
@pytest.mark.parametrize(("unroll", "remat"), [(1, "none"), (1, "products"), (4, "full")])
def test_how_layers_are_run_does_not_change_results(sizes, transformer, unroll, remat, monkeypatch):
    """As a loop or not, and with activations stored or computed again: values and gradients."""
    trajectories = build_trajectories(LONGEST)
    expected = likelihood(transformer, trajectories)
    monkeypatch.setitem(UNROLL, "float", unroll)
    other = Transformer(TransformerConfig(**sizes, remat=remat), nnx.Rngs(0))
    # A function of its own, which is not compiled yet.
    found = nnx.jit(nnx.value_and_grad(lambda *args: log_likelihood(*args)))(other, trajectories)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_an_iteration_runs_as_many_layers_as_divide_their_number(sizes):
    runs = [unrolled_layers(TransformerConfig(**sizes | {"layers": n})) for n in range(1, 37)]
    assert runs[:8] == [1, 2, 3, 4, 1, 3, 1, 4] and runs[30 - 1] == 3 and runs[36 - 1] == 4


# Edits.


@pytest.mark.stress
@pytest.mark.parametrize("edits", [1, 3])
def test_edits_change_no_other_parameter_and_no_other_logit(sizes, edits):
    """Bit for bit: without edits, and with more ids at the end."""
    plain = Transformer(TransformerConfig(**sizes), nnx.Rngs(0))
    V = sizes["vocab_size"]
    more = sizes | {"vocab_size": V + edits, "edits": edits}
    edited = Transformer(TransformerConfig(**more), nnx.Rngs(0))
    tokens = jax.random.randint(jax.random.key(0), (2, 7), 0, V)
    before, after = (np.asarray(plain_pass(model, tokens)) for model in (plain, edited))
    assert before.shape == (2, 7, V) and after.shape == (2, 7, V + edits)
    np.testing.assert_array_equal(after[..., :V], before)
    assert (after[..., V:] != 0).all()


@pytest.mark.stress
def test_a_dead_slot_leaves_no_trace(sizes):
    """An edit's id has no embedding; what stands in its slot is seen by no other, and is finite."""
    model = Transformer(TransformerConfig(**sizes | {"edits": 2}), nnx.Rngs(0))
    V = sizes["vocab_size"]
    process = mdp.make(V, eos=EOS, pad=PAD, never=[BOS], edits={V - 2: 1, V - 1: 2})
    actions = [5, 6, V - 2, 7, 8, V - 1, V - 1, 9]
    episode = oracles.lay_out_episode([BOS, 5], actions, actions, slots=12, filler=EOS)
    build = jax.jit(jax.vmap(partial(build_trajectory, process)))
    one = build(oracles.stack_episodes([episode]))
    one = jax.tree.map(jnp.asarray, one)
    dead = process.pops[one.tokens] > 0
    assert dead.sum() == 3
    logits = np.asarray(masked_pass(model, one))
    other = one._replace(tokens=jnp.where(dead, 7, one.tokens))
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits[~dead], np.asarray(masked_pass(model, other))[~dead])
    # The same text without the edits and what they popped: states after them are equal.
    text = [BOS, 5, 9]
    expected = np.asarray(plain_pass(model, jnp.array([text])))[0, -1]
    np.testing.assert_allclose(logits[0, one.state[0, one.end[0]]], expected, atol=1e-4)


@pytest.mark.stress
def test_layers_are_drawn_as_one_after_another(sizes):
    """The same parameters, adapters too, and the generators go on after the last layer."""
    adapters = Lora(rank=2, targets=".*")
    config = TransformerConfig(**sizes, lora=adapters)

    def in_a_loop():
        rngs = nnx.Rngs(0, lora=1)
        return nnx.state(draw_blocks(config, rngs)), rngs.params(), rngs.lora()

    def one_after_another():
        rngs = nnx.Rngs(0, lora=1)
        blocks = [nnx.state(Block(config, rngs)) for _ in range(config.layers)]
        return jax.tree.map(lambda *x: jnp.stack(x), *blocks), rngs.params(), rngs.lora()

    found, expected = jax.jit(in_a_loop)(), jax.jit(one_after_another)()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.all(a == b), found, expected))
