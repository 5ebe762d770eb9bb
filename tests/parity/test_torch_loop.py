"""An export model, and the loop that is shipped beside it, write what our sampler writes."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from flax import nnx

from sequencematch.core import mdp
from sequencematch.data.subword import read_tokenizer
from sequencematch.data.tokenizer_files import generation_config
from sequencematch.models.pretrained import configs, reader, writer
from sequencematch.models.pretrained.card import card_files
from sequencematch.models.pretrained.families import leaves_by_path
from sequencematch.rollout import sampler
from sequencematch.rollout.decoding import Decoding
from tests.data import tokenizer_folders
from tests.models.pretrained import tiny

pytestmark = pytest.mark.stress

EDITS, ACTIONS, SPARE = ("<bkspc>", "<bkspc2>", "<reset>"), 64, 2
PROMPTS = ["that cat", "a rat\n12"]


@pytest.fixture(scope="module", params=["llama, scaled", "gpt2", "llama, all"])
def export(request, tmp_path_factory):
    """(our tokenizer, our network, its decision process, the directory that it was exported to)."""
    root = tmp_path_factory.mktemp("model")
    makers = (tokenizer_folders.byte_level, tokenizer_folders.sentence_piece)
    tokenizer = read_tokenizer(makers[request.param == "llama, all"](root / "tokenizer"), EDITS)
    config = tiny.CASES[request.param] | {"vocab_size": tokenizer.own_size + SPARE}
    folder = tiny.write(root / "model", config)
    params = read_with_edits(folder, tokenizer)
    family = configs.family_of(config)
    spare = writer.spare_rows(reader.open_weights(folder), family, params)
    first, rows = tokenizer.own_size, tokenizer.vocab_size
    files = tokenizer.files() | card_files("tiny", EDITS, rows, first, {"method": "none"})
    files["generation_config.json"] = str(generation_config(tokenizer, rows)).replace("'", '"')
    out = root / "exported"
    writer.write_model(out, params, family, config, spare=spare, files=files)
    network = tiny.network(config, params, tokenizer.own_size, len(EDITS))
    return tokenizer, network, decision_process(tokenizer), out


def read_with_edits(folder, tokenizer):
    """Parameters whose edits are likely now and then."""
    params = tiny.read(folder, tokenizer.own_size, edits=len(EDITS))
    rows = 4.0 * jax.random.normal(jax.random.key(1), (16, len(EDITS)))
    return jax.tree_util.tree_map_with_path(
        lambda path, x: rows if "edits" in str(path) else x, params
    )


def decision_process(tokenizer):
    actions = {*tokenizer.ordinary, tokenizer.eos, *tokenizer.pops}
    never = [i for i in range(tokenizer.vocab_size) if i not in actions]
    pops = tokenizer.pops
    return mdp.make(
        tokenizer.vocab_size, eos=tokenizer.eos, pad=tokenizer.pad, never=never, edits=pops
    )


def write(export, prompt, decoding):
    """Actions of our sampler."""
    tokenizer, network, process, _ = export
    ids = [] if tokenizer.bos is None else [tokenizer.bos]
    tokens = jnp.asarray([ids + tokenizer.encode(prompt)], jnp.int32)
    start = jnp.full(1, tokens.shape[1] - 1, jnp.int32)

    @nnx.jit
    def sample(network):
        how = sampler.Sampling(ACTIONS, decoding)
        final = sampler.sample(network, process, tokens, start, jax.random.key(0), how)
        return sampler.episodes(process, final)

    episode = sample(network)
    return episode.tokens[0, tokens.shape[1] : int(episode.end[0]) + 1].tolist()


def load_in_torch(out):
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()
    return model, transformers.AutoTokenizer.from_pretrained(out)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_loop_writes_the_same_with_edits(export, prompt):
    tokenizer, *_, out = export
    spec = importlib.util.spec_from_file_location("generate", out / "generate.py")
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    for bias, memory in ((0.0, True), (-1.0, True), (0.5, False)):
        _, actions = loop.generate(*load_in_torch(out), prompt, ACTIONS, bias, memory)
        assert actions == write(export, prompt, Decoding(bias=bias, memory=memory))
        threshold = 1 / (1 + np.exp(bias))  # that log-odds of -bias have
        assert actions == write(export, prompt, Decoding(threshold=threshold, memory=memory))
    text, actions = loop.generate(*load_in_torch(out), prompt, ACTIONS)
    assert actions == write(export, prompt, Decoding(memory=True))
    assert sum(i in tokenizer.pops for i in actions) > 3
    assert len(text) < len(actions)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_generate_writes_the_same_without_edits(export, prompt):
    model, tokenizer = load_in_torch(export[-1])
    ids = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**ids, do_sample=False, max_new_tokens=ACTIONS)
    ours = write(export, prompt, Decoding(bias=-np.inf))
    assert written[0, ids.input_ids.shape[1] :].tolist() == ours


def test_an_export_is_read_again_bit_by_bit(export):
    tokenizer, network, _, out = export
    again = read_tokenizer(out, EDITS)
    assert again.edit_rows == [0, 1, 2] and again.fingerprint == tokenizer.fingerprint
    config = configs.read_config(out)
    like = tiny.shapes(config, again.own_size, len(EDITS))
    found = reader.read_params(
        reader.open_weights(out), configs.family_of(config), like, edit_rows=again.edit_rows
    )
    ours = leaves_by_path(nnx.state(network, nnx.Param))
    for path, x in leaves_by_path(found).items():
        np.testing.assert_array_equal(x, ours[path], err_msg=path)
