"""Our networks against transformers: logits, gradients, a step of AdamW; and what it reads of ours."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from flax import nnx

from sequencematch.core.types import Visibility
from sequencematch.models.pretrained import configs, reader, writer
from sequencematch.models.pretrained.families import EDITS, leaves_by_path
from sequencematch.models.transformer import Transformer
from tests.models.pretrained import tiny
from tests.parity.make_figures import torch_logits, torch_model

pytestmark = pytest.mark.stress

IDS, NEW = 22, 64  # the tokenizer's ids: two rows are spare; tokens that are written
# A first step divides by the size of the gradient: eps keeps rounding errors of small ones small.
ADAMW = dict(learning_rate=1e-2, b1=0.9, b2=0.95, eps=1e-3, weight_decay=0.1)


@pytest.fixture(scope="module", params=tiny.CASES)
def case(request, tmp_path_factory):
    """(config.json, the model in transformers, the directory it saved, our network)."""
    model = torch_model(tiny.CASES[request.param])
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    config = configs.read_config(folder)
    return config, model, folder, tiny.network(config, tiny.read(folder))


def logits_of(network, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    everything = Visibility(positions, positions, jnp.full(tokens.shape, tokens.shape[1]))
    return network.logits(network.hidden(tokens, everything))


def loss(network):
    logits = logits_of(network, jnp.asarray(tiny.TOKENS))[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, tiny.TOKENS[:, 1:]).mean()


def torch_loss(model):
    tokens = torch.tensor(tiny.TOKENS, dtype=torch.long)
    logits = model(tokens).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def as_params(model, config, of):
    """One tensor for each parameter of a model in transformers, in our tree."""
    found = {name: of(p).detach().numpy() for name, p in model.named_parameters()}
    shapes = {name: x.shape for name, x in found.items()}
    weights = reader.Weights("torch", shapes, lambda name, first, end: found[name][first:end])
    return reader.read_params(weights, configs.family_of(config), tiny.shapes(config))


def test_logits(case):
    """Of the directory that transformers saves, with the names of its version."""
    _, model, _, network = case
    found = np.asarray(nnx.jit(logits_of)(network, tiny.TOKENS))
    np.testing.assert_allclose(found, torch_logits(model).numpy(), atol=1e-4)


def test_gradients_and_a_step_of_adamw(case):
    """Within 1e-5 of the largest entry; the step within 1e-4, a hundredth of the learning rate."""
    config, model, _, network = case
    model.zero_grad()
    value = torch_loss(model)
    value.backward()
    ours, gradients = nnx.jit(nnx.value_and_grad(loss))(network)
    np.testing.assert_allclose(ours, value.item(), rtol=1e-5)
    expected = leaves_by_path(as_params(model, config, lambda p: p.grad))
    found = leaves_by_path(gradients)
    assert found.keys() == expected.keys()
    for path, x in expected.items():
        assert np.abs(x).max() > 0
        np.testing.assert_allclose(found[path], x, atol=1e-5 * np.abs(x).max() + 1e-7, err_msg=path)

    params, optimizer = nnx.state(network), optax.adamw(**ADAMW)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    moved = leaves_by_path(optax.apply_updates(params, updates))
    copy = torch_model(config)
    for p, q in zip(copy.parameters(), model.parameters(), strict=True):
        p.grad = q.grad.clone()
    b1, b2 = ADAMW["b1"], ADAMW["b2"]
    decay, eps = ADAMW["weight_decay"], ADAMW["eps"]
    torch.optim.AdamW(
        copy.parameters(), ADAMW["learning_rate"], (b1, b2), eps, weight_decay=decay
    ).step()
    for path, x in leaves_by_path(as_params(copy, config, lambda p: p)).items():
        np.testing.assert_allclose(moved[path], x, atol=1e-4, err_msg=path)


@pytest.fixture(scope="module")
def an_export(case, tmp_path_factory):
    """(our network with two edits, which are trained, its export in transformers)."""
    config, _, folder, _ = case
    params = tiny.read(folder, IDS, edits=3)
    edits = 0.5 * jax.random.normal(jax.random.key(1), (16, 3))
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: edits if x.shape == edits.shape and "edits" in str(path) else x, params
    )
    np.testing.assert_array_equal(leaves_by_path(params)[EDITS], edits)
    family, out = configs.family_of(config), tmp_path_factory.mktemp("export") / "model"
    spare = writer.spare_rows(reader.open_weights(folder), family, params)
    writer.write_model(out, params, family, config, spare=spare)
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()
    return tiny.network(config, params, IDS, 3), model


def test_an_export_has_the_same_logits_of_tokens_and_edits(an_export):
    network, model = an_export
    tokens = tiny.TOKENS % IDS
    found = np.asarray(nnx.jit(logits_of)(network, tokens))
    with torch.no_grad():
        expected = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    assert expected.shape[-1] == IDS + 3 == found.shape[-1]  # two spare rows and a new one
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_export_writes_the_same_text(an_export):
    """64 tokens, each the likeliest, with edits at -inf."""
    network, model = an_export
    prompt = tiny.TOKENS[:, :8] % IDS
    start = torch.tensor(prompt, dtype=torch.long)
    written = model.generate(
        start,
        attention_mask=torch.ones_like(start),
        do_sample=False,
        max_new_tokens=NEW,
        suppress_tokens=[*range(IDS, IDS + 3)],
        eos_token_id=None,
        pad_token_id=0,
    )
    np.testing.assert_array_equal(written[:, 8:].numpy(), write(network, prompt))


def write(network: Transformer, prompt: np.ndarray) -> np.ndarray:
    """The likeliest tokens after a prompt, from the cache."""
    slots = prompt.shape[1] + NEW
    hidden, cache = nnx.jit(partial(Transformer.prefill, slots=slots))(network, prompt)
    decode, last, found = nnx.jit(Transformer.decode), hidden[:, prompt.shape[1] - 1], []
    for i in range(NEW):
        found.append(jnp.argmax(network.logits(last)[:, :IDS], axis=-1).astype(jnp.int32))
        last, cache = decode(network, found[-1], jnp.full(2, prompt.shape[1] + i), cache)
    return np.stack(found, axis=1)
