"""A run that begins with a pretrained model, and its way back."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp

from sequencematch.cli import exporting
from sequencematch.core.types import Visibility
from sequencematch.data.subword import read_tokenizer
from sequencematch.models.pretrained.families import EDITS, leaves_by_path
from sequencematch.setup import pretrained
from sequencematch.setup.build import build, training_data
from tests.data import tokenizer_folders
from tests.models.pretrained import tiny
from tests.setup.configs import valid_config_with

SPARE, ETA = 2, 0.1


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A tiny Llama with a tokenizer of bytes; two rows are spare."""
    folder = tokenizer_folders.byte_level(tmp_path_factory.mktemp("model"))
    rows = read_tokenizer(folder).own_size + SPARE
    config = tiny.CASES["llama, scaled"] | {"vocab_size": rows, "eos_token_id": 0}
    return tiny.write(folder, config)


def parts_of(directory, spellings, **changes):
    split = {f"data.{name}": 10 for name in ("train", "validation", "test")}
    changes = {"task": "jsonl", "data.path": spellings, "method": "bc", **split, **changes}
    return build(valid_config_with({"model.path": str(directory), "noise.eta": ETA, **changes}))


@pytest.fixture(scope="module")
def parts(directory, spellings):
    return parts_of(directory, spellings, edits=("<bkspc>", "<bkspc2>"))


@pytest.fixture(scope="module")
def params(parts):
    return pretrained.read_parameters(parts)


@nnx.jit
def logits_of(model, episodes):
    positions = jax.numpy.broadcast_to(np.arange(episodes.tokens.shape[1]), episodes.tokens.shape)
    everything = Visibility(positions, positions, episodes.tokens.shape[1] + 0 * positions)
    return model.logits(model.hidden(episodes.tokens, everything))


def test_old_logits_are_those_of_the_model_and_edits_have_the_noise_rate(directory, parts, params):
    config, own = json.loads((directory / "config.json").read_text()), parts.tokenizer.own_size
    original = tiny.network(config, tiny.read(directory, own), own)
    episodes = jax.tree.map(jax.numpy.asarray, training_data(parts)[0][0])
    expected = np.asarray(logits_of(original, episodes))
    found = np.asarray(logits_of(nnx.merge(parts.recipe.graph, params), episodes))
    np.testing.assert_array_equal(found[..., :own], expected)
    edits = logsumexp(found[..., own:], axis=-1)
    values = logsumexp(np.where(parts.recipe.mdp.legal[:own], expected, -np.inf), axis=-1)
    prompts = np.arange(found.shape[1]) <= np.asarray(episodes.start)[:, None]
    assert ETA / 2 < np.median(np.exp(edits - values)[prompts]) < 2 * ETA


def test_without_edits_the_model_itself_is_trained(directory, spellings):
    clean = parts_of(directory, spellings, edits=(), **{"noise.kind": "none"})
    params = leaves_by_path(pretrained.read_parameters(clean))
    config, own = json.loads((directory / "config.json").read_text()), clean.tokenizer.own_size
    original = leaves_by_path(nnx.state(tiny.network(config, tiny.read(directory, own), own)))
    assert EDITS not in params and not clean.recipe.mdp.pops.any()
    for path, x in original.items():
        np.testing.assert_array_equal(params[path], x, err_msg=path)


def test_export_and_import_are_inverse(parts, params, spellings, tmp_path):
    out = tmp_path / "mine"
    pretrained.export(parts, params, out, {"method": "bc"})
    again = parts_of(out, spellings, edits=("<bkspc>", "<bkspc2>"))
    assert again.tokenizer.fingerprint == parts.tokenizer.fingerprint
    assert again.tokenizer.edit_rows == [0, 1] and parts.tokenizer.edit_rows == [None, None]
    found = leaves_by_path(pretrained.read_parameters(again))
    for path, x in leaves_by_path(params).items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)
    names = {path.name for path in out.iterdir()}
    assert {"README.md", "generate.py", "generation_config.json", "tokenizer.json"} <= names
    # The edits have taken the spare rows.
    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == parts.tokenizer.own_size + SPARE == parts.tokenizer.vocab_size
    assert "# mine\n" in (out / "README.md").read_text()


def test_learnt_edits_keep_their_rows_and_new_ones_beside_them_are_fitted(
    directory, parts, params, spellings, tmp_path
):
    learnt = jax.tree.map(lambda x: x, params)
    learnt["edits"]["kernel"][...] += 1
    assert not np.array_equal(*(leaves_by_path(x)[EDITS] for x in (learnt, params)))  # a copy
    pretrained.export(parts, learnt, tmp_path / "mine", {})
    fewer, new, anew = (
        leaves_by_path(pretrained.read_parameters(parts_of(folder, spellings, edits=edits)))[EDITS]
        for folder, edits in (
            (tmp_path / "mine", ("<bkspc>",)),
            (tmp_path / "mine", ("<bkspc>", "<bkspc4>")),
            (directory, ("<bkspc>", "<bkspc4>")),
        )
    )
    np.testing.assert_array_equal(fewer, leaves_by_path(learnt)[EDITS][:, :1])
    np.testing.assert_array_equal(new[:, 0], fewer[:, 0])
    np.testing.assert_allclose(new[:, 1], anew[:, 1], rtol=1e-5, atol=1e-6)


def test_what_is_exported_is_rounded_to_the_models_own_dtype_or_not(directory, spellings, tmp_path):
    """And the card says so."""
    folder, config = tmp_path / "base", json.loads((directory / "config.json").read_text())
    tiny.write(tokenizer_folders.byte_level(folder), config | {"dtype": "bfloat16"})
    parts = parts_of(folder, spellings)
    trained = jax.tree.map(lambda x: x * 1.001, pretrained.read_parameters(parts))
    for dtype, kind in ((None, jax.numpy.bfloat16), ("float32", jax.numpy.float32)):
        out = tmp_path / str(dtype)
        exporting.export(parts, trained, 1, out, dtype=dtype)
        assert ("rounded to bfloat16" in (out / "README.md").read_text()) == (dtype is None)
        found = leaves_by_path(pretrained.read_parameters(parts_of(out, spellings)))
        for path, x in leaves_by_path(trained).items():
            np.testing.assert_array_equal(found[path], x.astype(kind), err_msg=path)


@pytest.mark.parametrize("how", [{"dtype": "int8"}, {"dtype": "float32", "adapter": True}])
def test_only_a_model_is_stored_in_a_dtype_that_there_is(parts, params, tmp_path, how):
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, float16"):
        exporting.export(parts, params, 1, tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


def test_adapters_alone_are_of_a_run_that_trained_no_more(directory, spellings):
    with pytest.raises(ValueError, match="has no adapters: export the model"):
        pretrained.check_adapter(parts_of(directory, spellings))
    more = {"model.lora_rank": 2, "train.unfrozen": "norm"}
    with pytest.raises(ValueError, match="trained more than adapters"):
        pretrained.check_adapter(parts_of(directory, spellings, **more))


def test_a_method_without_edits_reads_the_same_model(directory, parts, params, spellings):
    plain = parts_of(directory, spellings, method="mle")
    found = leaves_by_path(pretrained.read_parameters(plain))
    for path, x in leaves_by_path(params).items():
        if "edits" not in path:
            np.testing.assert_array_equal(found[path], x, err_msg=path)


def test_what_a_method_without_edits_exports_has_none(directory, spellings, tmp_path):
    plain, out = parts_of(directory, spellings, method="mle"), tmp_path / "plain"
    before = pretrained.read_parameters(plain)
    pretrained.export(plain, before, out, {"method": "mle"})
    assert not (out / "generate.py").exists()
    assert "teaches no edits" in (out / "README.md").read_text()
    assert "<bkspc>" not in (out / "tokenizer.json").read_text()
    # So a method with edits begins on it with rows that choose them about as often as noise is.
    again, fitted = (
        leaves_by_path(pretrained.read_parameters(parts_of(folder, spellings)))
        for folder in (out, directory)
    )
    for path, x in fitted.items():
        np.testing.assert_array_equal(again[path], x, err_msg=path)
    assert not np.array_equal(fitted[EDITS], leaves_by_path(before)[EDITS])


def test_rows_of_edits_that_nothing_has_taught_are_not_frozen(directory, spellings):
    """They are fitted on a batch, which a run that is asked for answers has not."""
    parts = parts_of(directory, spellings, **{"train.frozen": "edits|embedding"})
    with pytest.raises(ValueError, match=r"config\.train\.frozen=.*which nothing has taught yet"):
        pretrained.read_parameters(parts)


def test_without_noise_edits_begin_rarely_whatever_eta_says(directory, spellings):
    found = [
        leaves_by_path(pretrained.read_parameters(parts_of(directory, spellings, **noise)))[EDITS]
        for noise in ({"noise.kind": "none"}, {"noise.kind": "none", "noise.eta": 0.0})
    ]
    np.testing.assert_array_equal(*found)


def test_rows_of_edits_are_fitted_on_no_more_rows_than_a_part_of_a_batch(
    directory, spellings, monkeypatch
):
    """A batch is divided so that a step fits into memory, and so must this pass."""
    fitted, fit = [], pretrained.first_edit_rows

    def record(model, mdp, trajectories, eta):
        fitted.append(len(trajectories.start))
        return fit(model, mdp, trajectories, eta)

    monkeypatch.setattr(pretrained, "first_edit_rows", record)
    for parts in (1, 4):
        pretrained.read_parameters(parts_of(directory, spellings, **{"train.accumulate": parts}))
    assert fitted[0] == 4 * fitted[1] > 0


def test_what_an_adapter_brings_may_be_frozen_and_is_there_when_answers_are_asked(
    directory, spellings, tmp_path
):
    """Then there is no training split, and no checkpoint has what is frozen."""
    first = parts_of(directory, spellings, **{"model.lora_rank": 2, "seed": 1})
    pretrained.export_adapter(first, pretrained.read_parameters(first), tmp_path / "a", {})
    changes = {"model.lora_rank": 2, "init": f"adapter:{tmp_path / 'a'}", "train.frozen": "lora_a"}
    parts = parts_of(directory, spellings, **changes)
    training, expected = pretrained.read_parameters(parts), pretrained.read_parameters(first)
    asked = {name: x for name, x in parts.task.splits.items() if name != "train"}
    parts = parts._replace(task=parts.task._replace(splits=asked))
    answering = leaves_by_path(pretrained.read_parameters(parts, trained=False))
    for path, x in leaves_by_path(expected).items():
        if "lora_a" in path:
            np.testing.assert_allclose(leaves_by_path(training)[path], x, rtol=1e-6)
            np.testing.assert_array_equal(answering[path], leaves_by_path(training)[path])


def test_an_adapter_of_other_edits_is_refused(directory, spellings, tmp_path):
    """Their ids are the same."""
    first = parts_of(directory, spellings, **{"model.lora_rank": 2})
    pretrained.export_adapter(first, pretrained.read_parameters(first), tmp_path / "a", {})
    changes = {"init": f"adapter:{tmp_path / 'a'}", "edits": ("<reset>",), "max_actions": 17}
    changes["model.lora_rank"] = 2
    with pytest.raises(ValueError, match=r"the edits \['<bkspc>'\], and .* set config\.edits"):
        pretrained.read_parameters(parts_of(directory, spellings, **changes))
    # The tokenizer of the base says nothing of edits.
    tokenizer_folders.byte_level(tmp_path / "a")
    pretrained.read_parameters(parts_of(directory, spellings, **changes))


def test_a_card_names_the_base_by_its_whole_path(directory, spellings, tmp_path, monkeypatch):
    """An adapter is read from its own folder, by libraries that know no ~."""
    monkeypatch.setenv("HOME", str(directory.parent))
    parts = parts_of(f"~/{directory.name}", spellings, **{"model.lora_rank": 2})
    pretrained.export_adapter(parts, pretrained.read_parameters(parts), tmp_path / "out", {})
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(directory)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {*parts.tokenizer.pops} <= {*generation["suppress_tokens"]}


def test_tensors_are_checked_without_being_read(directory, parts, spellings, tmp_path):
    pretrained.check_parameters(parts)
    folder = tokenizer_folders.byte_level(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    tiny.write(folder, config, **{"model.norm.weight": None})
    with pytest.raises(ValueError, match=r"missing: model\.norm\.weight"):
        pretrained.check_parameters(parts_of(folder, spellings))


def test_an_id_beyond_the_embedding_is_refused(directory, spellings, tmp_path):
    folder = tokenizer_folders.byte_level(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    tiny.write(folder, config | {"vocab_size": 20})
    with pytest.raises(ValueError, match="tokenizer has the id .* but the embedding has 20 rows"):
        parts_of(folder, spellings)


def test_only_what_began_with_a_pretrained_model_is_exported(spellings, tmp_path):
    drawn = build(
        valid_config_with(
            {"task": "jsonl", "data.path": spellings, "data.test": 5, "data.validation": 5}
        )
    )
    with pytest.raises(
        ValueError, match=r"did not begin with a pretrained model.*config\.model\.path"
    ):
        pretrained.export(drawn, drawn.like.params, tmp_path / "out", {})


@pytest.mark.parametrize(
    ("path", "fault"),
    [("meta/llama", "hf download meta/llama"), ("/nowhere/at/all", "is not a directory")],
)
def test_what_is_no_directory_is_refused(path, fault):
    with pytest.raises(ValueError, match=fault):
        valid_config_with({"model.path": path})


def test_two_models_are_refused(directory):
    with pytest.raises(
        ValueError, match=r"model\.path=.* and config\.model\.preset='gpt2' name two"
    ):
        valid_config_with({"model.path": str(directory), "model.preset": "gpt2"})


def test_sizes_of_its_own_are_kept(directory):
    with pytest.raises(ValueError, match=r"model\.path=.* leave out config\.model\.layers$"):
        valid_config_with({"model.path": str(directory), "model.layers": 3})
