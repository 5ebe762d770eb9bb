"""Q and V are read in chunks: equal to the whole, and never with a large array over the vocabulary."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core import mdp, reductions
from sequencematch.core.trajectory import build_trajectory
from sequencematch.core.types import Episode
from sequencematch.models import readout
from sequencematch.models.transformer import Transformer
from sequencematch.setup.defaults import network_config
from sequencematch.setup.recipe import make_recipe, make_settings
from sequencematch.train import step as steps
from sequencematch.train.mesh import batch_sharding, make_mesh
from sequencematch.train.state import init_parameters, initial_state
from tests import oracles
from tests.marks import stress
from tests.setup.configs import valid_config_with

PAD, BOS, EOS, BKSPC, POP_TWO = range(5)
V, LETTERS, SLOTS = 12, range(5, 12), 14
MDP = mdp.make(V, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1, POP_TWO: 2})


# Chunks.


@pytest.mark.parametrize(
    ("size", "spread"), [(4, 2), *(stress(n, k) for n in (1, 5, 16) for k in (1, 2))]
)
def test_map_in_chunks_equals_the_whole(size, spread):
    """In value and gradient, whether or not the size divides the number of states."""
    k = jax.random.split(jax.random.key(1), 3)
    hidden, head = jax.random.normal(k[0], (10, 4)), jax.random.normal(k[1], (4, V))
    weight, actions = jax.random.normal(k[2], (2, 10)), jnp.arange(10) % V

    def weighted_sum(map_over, hidden, head):
        def read(hidden, actions):
            return reductions.action_values(hidden @ head, actions, np.ones(V, bool))

        values = map_over(read, hidden, actions)
        return jnp.sum(weight[0] * values.q + weight[1] * values.v**2), values

    def at_once(f, *arrays):
        return f(*arrays)

    grad = jax.grad(weighted_sum, argnums=(1, 2), has_aux=True)
    (expected, values), (actual, chunk_values) = (
        grad(m, hidden, head)
        for m in (at_once, partial(readout.map_in_chunks, size=size, spread=spread))
    )
    for a, b in zip((*chunk_values, *actual), (*values, *expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_each_of_several_devices_reads_a_chunk_of_its_own(trajectories, monkeypatch):
    """Of its own rows: nothing is exchanged. Each chunk reads the head, so they are no smaller."""
    monkeypatch.setattr(readout, "LOGIT_BYTES", 4 * 4 * V)
    rows = batch_sharding(make_mesh(data=8))
    many = jax.tree.map(lambda x: x[np.arange(64) % 6], trajectories)
    arrays = jax.device_put((jnp.ones((64, SLOTS, 3)), many), rows)

    def read(kernel, hidden, trajectories):
        model = Head(kernel)
        model.devices = 8
        return readout.action_values(model, MDP, hidden, trajectories)

    program = jax.jit(read).lower(jnp.ones((3, V)), *arrays).compile().as_text()
    assert re.findall(r"all-gather|all-to-all|collective-permute", program) == []
    states = {
        math.prod(map(int, n.split(","))) for n in re.findall(rf"f32\[([\d,]+),{V}\]", program)
    }
    assert max(states) == 4


def test_chunks_that_are_not_used_are_not_computed():
    """Their result and gradient are 0, even where computing them would give NaN."""
    x, used = jnp.array([1.0, 4.0, -1.0, -4.0, -1.0, 9.0, -9.0]), jnp.arange(7) != 2

    def root(x):
        return readout.map_in_chunks(jnp.sqrt, x, size=1, used=used & (x > 0))

    np.testing.assert_array_equal(root(x), [1, 2, 0, 0, 0, 3, 0])
    slope = jax.grad(lambda x: jnp.sum(root(x)))(x)
    np.testing.assert_allclose(slope, [1 / 2, 1 / 4, 0, 0, 0, 1 / 6, 0], rtol=1e-6)


@pytest.fixture(scope="module")
def trajectories():
    """Prompts of any length, and decisions up to the last slot or none at all."""
    rng = np.random.default_rng(0)
    episodes = []
    for row in range(6):
        prompt = [BOS, *map(int, rng.choice(LETTERS, size=2 * row % 7))]
        count = [SLOTS - len(prompt), 0, 3][row % 3]
        actions = oracles.random_actions(rng, count, ordinary=LETTERS, edits=[BKSPC, POP_TWO])
        labels = rng.choice([*LETTERS, EOS], size=count)
        episodes.append(oracles.lay_out_episode(prompt, actions, labels, slots=SLOTS, filler=EOS))
    return jax.jit(jax.vmap(partial(build_trajectory, MDP)))(oracles.stack_episodes(episodes))


class Head:
    """Stands for a network of which only the last layer is needed."""

    def __init__(self, kernel):
        self.kernel = kernel

    def logits(self, hidden):
        return hidden @ self.kernel

    hidden = prefill = decode = logits


class Table(Head):
    """Has its hidden states, too, whatever the tokens are."""

    def __init__(self, kernel, states):
        super().__init__(kernel)
        self.hidden = lambda tokens, visibility: states


def values_and_gradients(trajectories, max_actions=None):
    """Q, V and the penalties of unlikelihood, 0 where there is no state; gradients of a sum of them."""
    time = np.arange(SLOTS)
    start, end = (np.asarray(x)[:, None] for x in (trajectories.start, trajectories.end))
    is_state = (start <= time) & (time <= end)

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def read(hidden, kernel):
        model = Table(kernel, hidden)
        there = readout.states(model, trajectories, max_actions)
        values = readout.action_values(model, MDP, there, trajectories)
        unlikely = readout.log_unlikelihood(model, MDP, there, trajectories)
        found = [jnp.where(is_state, x, 0.0) for x in (*values, unlikely)]
        return sum(jnp.sum(x**2) for x in found), found

    key, shapes = jax.random.split(jax.random.key(2)), ((*trajectories.tokens.shape, 8), (8, V))
    hidden, kernel = (jax.random.normal(k, s) for k, s in zip(key, shapes, strict=True))
    (_, found), gradients = read(hidden, kernel)
    at_states = jnp.take_along_axis(hidden @ kernel, trajectories.state[..., None], axis=1)
    return at_states, [*found, *gradients]


@pytest.fixture(scope="module")
def whole(trajectories):
    return values_and_gradients(trajectories)


@pytest.mark.parametrize("size", [1, stress(4), 7, stress(30)])
def test_values_do_not_depend_on_chunks(trajectories, whole, size, monkeypatch):
    """Chunks of less than the batch, of one time, of several times, and with rest or without."""
    monkeypatch.setattr(readout, "LOGIT_BYTES", size * 4 * V)
    for a, b in zip(values_and_gradients(trajectories)[1], whole[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_unlikelihood_is_of_the_tokens_of_each_text(trajectories, whole):
    """Of those that stand, the newest included, and each once; not of the label."""
    logits, (_, v, found, *_) = whole
    pops = {BKSPC: 1, POP_TWO: 2}
    for row, (start, end) in enumerate(zip(trajectories.start, trajectories.end, strict=True)):
        tokens, labels = (x[row].tolist() for x in (trajectories.tokens, trajectories.actions))
        texts = oracles.texts(tokens[: start + 1], tokens[start + 1 : end + 1], pops)
        for t, text in zip(range(start, end), texts, strict=False):
            others = [c for c in {*text} - {labels[t]} if MDP.legal[c]]
            likely = [math.exp(float(logits[row, t, c] - v[row, t])) for c in others]
            expected = sum(math.log1p(-p) for p in likely)
            np.testing.assert_allclose(found[row, t], expected, rtol=1e-3, atol=1e-4)


def test_values_are_those_of_all_logits(trajectories, whole):
    logits, (found_q, found_v, *_) = whole
    logits = np.where(MDP.legal, np.asarray(logits, np.float64), -np.inf)
    v = np.log(np.exp(logits).sum(axis=-1))
    q = np.take_along_axis(logits, np.asarray(trajectories.actions)[..., None], axis=-1)[..., 0]
    for row, (start, end) in enumerate(zip(trajectories.start, trajectories.end, strict=True)):
        there = slice(int(start), int(end) + 1)
        np.testing.assert_allclose(found_q[row, there], q[row, there], atol=1e-4)
        np.testing.assert_allclose(found_v[row, there], v[row, there], atol=1e-4)


def test_states_beyond_the_limit_on_decisions_are_not_read(trajectories, whole):
    """Values and gradients are as of all T states; logits are computed of max_actions + 1 a row."""
    few = jax.tree.map(lambda x: x[np.arange(6) % 3 > 0], trajectories)  # at most 3 decisions
    assert int(jnp.max(few.end - few.start)) == 3
    for a, b in zip(values_and_gradients(few, 3)[1], values_and_gradients(few)[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

    def read(kernel, hidden):
        model = Table(kernel, hidden)
        there = readout.states(model, few, 3)
        return readout.action_values(model, MDP, there, few)

    program = jax.jit(read).lower(jnp.ones((3, V)), jnp.ones((4, SLOTS, 3))).compile().as_text()
    states = [
        math.prod(map(int, n.split(","))) for n in re.findall(rf"f32\[([\d,]+),{V}\]", program)
    ]
    assert max(states) == 4 * (3 + 1)


# Memory.

LARGE_V, LIMIT = 32_000, 64 * 2**20
LARGE = {
    "prompt_slots": 24,
    "max_actions": 1000,
    "train.batch_size": 8,
    "rollout.batch_size": 8,
    "model.layers": 1,
    "model.d_model": 16,
    "model.heads": 1,
    "model.kv_heads": 1,
    "model.d_ff": 16,
}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}


def compiled_step(name, changes):
    """The text of a compiled step of B = 8, T = 1,024 and V = 32,000."""
    config = valid_config_with(LARGE | changes)
    sizes, slots = (
        network_config(config, LARGE_V, edits=1),
        config.prompt_slots + config.max_actions,
    )
    network = partial(Transformer, sizes)
    graph, _ = nnx.split(nnx.eval_shape(lambda: network(nnx.Rngs(0))))
    decisions = mdp.make(LARGE_V, eos=2, pad=0, never=[1], edits={LARGE_V - 1: 1})
    recipe = make_recipe(config, graph, decisions, make_mesh(1, 1), make_settings(config))
    begin = partial(initial_state, recipe=recipe, capacity=config.rollout.capacity, slots=slots)
    state = jax.eval_shape(begin, jax.eval_shape(partial(init_parameters, network), 0))
    grid, row = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((8, slots), (8,)))
    batch = Episode(grid, grid, jax.ShapeDtypeStruct((8, slots), bool), row, row)
    step = jax.jit(partial(steps.STEPS[name], recipe))
    return step.lower(state, batch).compile().as_text()


def array_sizes(program):
    """Bytes of every array in the text of a program, and its shape."""
    for dtype, shape in re.findall(r"\b(\w+)\[([\d,]+)\]", program):
        if dtype in BYTES:
            yield BYTES[dtype] * math.prod(map(int, shape.split(","))), f"{dtype}[{shape}]"


@pytest.mark.stress
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        # Hard negatives read logits, too.
        ("imitation", {"noise.kind": "policy"}),
        ("matching", {"method": "sequencematch"}),
        ("unlikelihood", {"method": "unlikelihood"}),
    ],
)
def test_no_array_of_a_step_is_larger_than_64_mib(name, changes):
    """With 32,000 ids and 8 x 1,024 states: 1 GiB, if all logits were there at once."""
    sizes = dict(array_sizes(compiled_step(name, changes)))
    logits = {size for size, shape in sizes.items() if str(LARGE_V) in shape}
    assert max(sizes) <= LIMIT, sizes[max(sizes)]
    # The largest chunk is close to the limit.
    assert max(logits) > 0.9 * LIMIT
