"""Batches of any task are well-formed episodes with finite losses and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.likelihood import unlikelihood
from sequencematch.core.objective import Objective, sequencematch
from sequencematch.core.trajectory import build_trajectory
from sequencematch.data import pipeline
from sequencematch.data.noise import NOISE_STEPS, WRONG_TOKENS, Noise
from sequencematch.data.task import Example, character_task
from sequencematch.data.tokenizer import EDITS
from sequencematch.models import readout
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from tests.properties.given import characters, examples, message_of

# One shape for all tasks, so that one program is compiled: B rows, T slots (P for prompts), V ids.
B, T, P, V = 4, 20, 12, 24
SETS = [("<bkspc>",), ("<reset>",), tuple(sorted(set(EDITS) - {"<reset>"})), ()]
NETWORK, PARAMETERS = nnx.split(
    Transformer(
        TransformerConfig(vocab_size=V, layers=1, d_model=8, heads=2, kv_heads=1, d_ff=8),
        nnx.Rngs(0),
    )
)


@st.composite
def tasks(draw):
    """A task of a few examples; texts may be empty or too long for the slots."""
    alphabet = draw(st.lists(characters, min_size=1, max_size=V - 8, unique=True))
    text = st.lists(st.sampled_from(alphabet), max_size=T).map("".join)
    drawn = draw(st.lists(st.builds(Example, text, text), min_size=1, max_size=6))
    confusable = draw(st.lists(st.sampled_from(alphabet)).map("".join))
    return character_task("any", "".join(alphabet), {"train": drawn}, confusable)


noises = st.builds(
    Noise,
    st.sampled_from(sorted(WRONG_TOKENS)),
    st.floats(0, 0.99),
    st.floats(0, 0.9),
    st.sampled_from(sorted(NOISE_STEPS)),
)


def decisions(tokenizer):
    return mdp.make(
        V,
        eos=tokenizer.eos,
        pad=tokenizer.pad,
        never=[tokenizer.bos, *range(tokenizer.vocab_size, V)],
        edits=tokenizer.pops,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def objectives(eos, pad, table, batch, logit_scale):
    """Every loss of a batch and its gradient; the batch stands in for the samples too."""
    process = mdp.Mdp(*table, eos, pad)
    t = jax.vmap(functools.partial(build_trajectory, process))(batch)

    def loss(parameters):
        model = nnx.merge(NETWORK, jax.tree.map(lambda x: x * logit_scale, parameters))
        hidden = readout.states(model, t)
        values = readout.action_values(model, process, hidden, t)
        log_unlikely = readout.log_unlikelihood(model, process, hidden, t)
        losses = [unlikelihood(values, log_unlikely, t).value]
        for divergence in DIVERGENCES.values():
            goal = Objective(divergence, alpha=0.1, gamma=0.9)
            policy = (values, t._replace(imitate=jnp.zeros_like(t.imitate)))
            losses.append(sequencematch(goal, (values, t), policy).value)
        return jnp.stack(losses)

    return loss(PARAMETERS), jax.tree.leaves(jax.jacrev(loss)(PARAMETERS))


def may_be_refused(task, noise):
    """Whether the noise has too few tokens, or a prompt is too long."""
    wrong = WRONG_TOKENS[noise.kind](task, task.tokenizer(()))
    few = noise.kind != "none" and noise.eta > 0 and len(set(wrong)) < 2
    return few or any(len(example.prompt) + 1 > P for example in task.splits["train"])


@pytest.mark.stress
@examples(10, 1000)
@given(tasks(), noises, st.sampled_from(SETS), st.integers(0, 2**32 - 1), st.integers(0, 2**40))
def test_batch_is_well_formed_with_finite_losses_and_gradients(task, noise, edits, seed, index):
    # A method without edits has clean data.
    noise = noise if edits else Noise()
    tokenizer = task.tokenizer(edits)

    def batch():
        sizes = dict(batch_size=B, prompt_slots=P, max_actions=T - P)
        return pipeline.episodes(task, tokenizer, "train", **sizes, noise=noise, seed=seed)[index]

    # Not every batch has the prompt that is too long: such a task may be refused or not.
    if may_be_refused(task, noise):
        try:
            episodes = batch()
        except ValueError as error:
            assert "too long" in message_of(error) or "two tokens" in message_of(error)
            return
    else:
        episodes = batch()
    process, time = decisions(tokenizer), np.arange(T)
    start, end = episodes.start[:, None], episodes.end[:, None]
    decided = (start <= time) & (time < end)
    assert ((start >= 0) & (start < end) & (end <= start + T - P)).all()
    assert (episodes.tokens[:, 0] == tokenizer.bos).all()
    assert (episodes.tokens[time > end] == tokenizer.pad).all()
    assert process.legal[episodes.tokens[np.roll(decided, 1, axis=1)]].all()
    assert process.legal[episodes.labels].all()
    assert (decided | ~episodes.imitate).all()
    prompts = {tuple(tokenizer.encode(example.prompt)) for example in task.splits["train"]}
    for row in range(B):
        assert tuple(episodes.tokens[row, 1 : episodes.start[row] + 1]) in prompts
    for scale in (1.0, 1e3):
        losses, gradients = objectives(tokenizer.eos, tokenizer.pad, process[:3], episodes, scale)
        assert np.isfinite(losses).all(), losses
        assert all(np.isfinite(g).all() for g in gradients)


prompt_slots = st.integers(2, T)


@examples(25, 1000)
@given(tasks(), st.integers(0, 2**32 - 1), st.integers(0, 2**40), prompt_slots)
def test_prompts_fit_or_are_refused(task, seed, index, slots):
    tokenizer = task.tokenizer(("<bkspc>",))
    longest = max(len(example.prompt) for example in task.splits["train"])
    make = functools.partial(pipeline.prompts, batch_size=B, prompt_slots=slots, seed=seed)
    dataset = make(task, tokenizer, "train")
    if longest + 1 > slots:
        with pytest.raises(ValueError) as raised:
            [dataset[i] for i in range(len(task.splits["train"]))]
        assert f"at most {slots} fit" in message_of(raised.value)
        return
    prompts = dataset[index]
    known = {tuple(tokenizer.encode(example.prompt)) for example in task.splits["train"]}
    for tokens, start in zip(*prompts, strict=True):
        assert tokens.shape == (slots,) and tokens[0] == tokenizer.bos
        assert (
            tuple(tokens[1 : start + 1]) in known and (tokens[start + 1 :] == tokenizer.pad).all()
        )
