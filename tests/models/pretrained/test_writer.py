"""Export: what was imported comes out bit for bit, and edits take spare rows or new ones."""

import errno
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from sequencematch.models import lora
from sequencematch.models.config import Lora
from sequencematch.models.pretrained import configs, reader, writer
from sequencematch.models.pretrained.families import EDITS, leaves_by_path
from sequencematch.models.transformer import Transformer
from tests.marks import stress
from tests.models.pretrained import tiny
from tests.models.pretrained.test_reader import same

UNTIED, TIED = tiny.CASES["llama"], tiny.CASES["qwen3"]


def export(folder, out, ids=None, edits=0, **options):
    """Imports a directory and exports it to another; returns the parameters."""
    config, params = configs.read_config(folder), tiny.read(folder, ids, edits)
    family, weights = configs.family_of(config), reader.open_weights(folder)
    spare = writer.spare_rows(weights, family, params)
    writer.write_model(out, params, family, config, spare=spare, **options)
    return params


@pytest.mark.parametrize("dtype", ["float32", stress("bfloat16"), stress("float16")])
@pytest.mark.parametrize("name", tiny.CASES)
def test_import_and_export_are_the_identity(tmp_path, name, dtype):
    """Bit for bit, spare rows and all; and config.json is as it was."""
    config = tiny.CASES[name] | {"torch_dtype": dtype, "dtype": dtype, "transformers_version": "9"}
    folder, out = tiny.write(tmp_path / "model", config, dtype), tmp_path / "deep" / "out"
    params = export(folder, out, ids=21)
    assert configs.read_config(out) == config
    before, after = tiny.contents(folder), tiny.contents(out)
    assert before.keys() == after.keys()
    for tensor, x in before.items():
        assert x.dtype == after[tensor].dtype
        np.testing.assert_array_equal(x, after[tensor])
    same(tiny.read(out, ids=21), params)


def test_what_cannot_be_written_is_an_error_of_the_system(tmp_path):
    """As of a full disk: safetensors has a class of its own for it."""
    with pytest.raises(OSError, match=f"{tmp_path} cannot be written: "):
        writer.save_tensors({"a": np.zeros(3)}, tmp_path)


@pytest.mark.parametrize(("ids", "rows"), [(20, 24), (23, 25), stress(24, 26)])
@pytest.mark.parametrize("config", [UNTIED, TIED])
def test_edits_take_spare_rows_or_new_ones(tmp_path, config, ids, rows):
    """In the head what they are; in an embedding of its own, the mean row. No other row changes."""
    folder = tiny.write(tmp_path / "model", config)
    edits = leaves_by_path(export(folder, tmp_path / "out", ids, edits=2))[EDITS]
    before, after = tiny.contents(folder), tiny.contents(tmp_path / "out")
    found = configs.read_config(tmp_path / "out")
    assert found == {"torch_dtype": "float32"} | config | {"vocab_size": rows}
    head = "lm_head.weight" if config is UNTIED else "model.embed_tokens.weight"
    np.testing.assert_array_equal(after[head][ids : ids + 2], np.asarray(edits).T)
    embedding = after["model.embed_tokens.weight"]
    mean = embedding[:ids].mean(axis=0)
    assert len(embedding) == rows
    if config is UNTIED:
        np.testing.assert_allclose(embedding[ids : ids + 2], [mean, mean], atol=1e-6)
    for name, x in before.items():
        kept = [i for i in range(len(x)) if len(x) != 24 or not ids <= i < ids + 2]
        np.testing.assert_array_equal(after[name][kept], x[kept])
    # Imported again, they are edits again.
    again = leaves_by_path(tiny.read(tmp_path / "out", ids, edits=2, edit_rows=(0, 1)))
    np.testing.assert_array_equal(again[EDITS], edits)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_another_dtype_is_written_down(tmp_path, key):
    config = {k: x for k, x in UNTIED.items() if k != "torch_dtype"} | {key: "float32"}
    folder = tiny.write(tmp_path / "model", config)
    export(folder, tmp_path / "out", dtype="bfloat16")
    assert configs.read_config(tmp_path / "out") == config | {key: "bfloat16"}
    name = "model.norm.weight"
    found = tiny.contents(tmp_path / "out")[name]
    np.testing.assert_array_equal(found, tiny.contents(folder)[name].astype(found.dtype))
    assert found.dtype == "bfloat16"


def test_several_files_are_as_one(tmp_path):
    folder = tiny.write(tmp_path / "model", UNTIED)
    params = export(folder, tmp_path / "out", file_bytes=4000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    count = len(files)
    assert (
        files == [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)] and count > 3
    )
    index = json.loads((tmp_path / "out" / reader.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tiny.contents(folder).values())
    assert max(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")) < 6000
    same(tiny.read(tmp_path / "out"), params)


def test_names_are_divided_by_size():
    sizes = dict(a=3, b=3, c=9, d=1, e=1)
    assert writer.split_names(sizes, 6) == [["a", "b"], ["c"], ["d", "e"]]
    assert writer.split_names(sizes, 99) == [[*sizes]]


def test_files_can_be_read_by_others(tmp_path):
    export(tiny.write(tmp_path / "model", UNTIED), tmp_path / "out", files={"README.md": "é"})
    modes = {path.name: path.stat().st_mode & 0o044 for path in (tmp_path / "out").iterdir()}
    assert modes == dict.fromkeys(["config.json", "model.safetensors", "README.md"], 0o044)
    assert (tmp_path / "out" / "README.md").read_text("utf-8") == "é"


def test_nothing_that_is_there_is_deleted(tmp_path):
    folder = tiny.write(tmp_path / "model", UNTIED)
    for place in (folder, folder / "config.json"):
        with pytest.raises(ValueError, match="exists and is not empty: name a new directory"):
            export(folder, place)
    (tmp_path / "empty").mkdir()
    export(folder, tmp_path / "empty")
    assert tiny.contents(tmp_path / "empty").keys() == tiny.contents(folder).keys()


def test_an_export_that_fails_leaves_nothing(tmp_path):
    folder = tiny.write(tmp_path / "model", UNTIED)
    with pytest.raises(OSError):
        export(folder, tmp_path / "out", files={"no/such/folder": ""})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_export_to_a_file_system_that_flushes_no_folders_is_one(tmp_path, monkeypatch):
    folder = tiny.write(tmp_path / "model", UNTIED)

    def refuse(path):
        if path.is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(writer, "flush", refuse)
    export(folder, tmp_path / "out")
    assert tiny.contents(tmp_path / "out").keys() == tiny.contents(folder).keys()


def test_what_a_killed_export_leaves_is_in_nobodys_way(tmp_path):
    # In the same process: containers repeat their ids.
    killed = writer.make_directory(tmp_path / "out")
    (killed.__enter__() / "half").write_bytes(b"")
    export(tiny.write(tmp_path / "model", UNTIED), tmp_path / "out")
    assert tiny.contents(tmp_path / "out").keys() == tiny.contents(tmp_path / "model").keys()


@pytest.mark.parametrize("adapters", [Lora(4, 8.0), stress(Lora(4, 8.0, "query|down", "nf4"))])
def test_adapters_are_merged_tensor_by_tensor_as_they_are_all_at_once(tmp_path, adapters):
    config = UNTIED | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    sizes = replace(configs.transformer_config(config, 20, 2), lora=adapters)
    shapes = nnx.state(
        nnx.eval_shape(lambda: Transformer(replace(sizes, lora=Lora()), nnx.Rngs(0)))
    )
    rng = np.random.default_rng(0)
    base = jax.tree.map(lambda x: jax.numpy.float32(rng.normal(size=x.shape)), shapes)
    added = lora.adapters_of(nnx.state(Transformer(sizes, nnx.Rngs(0))))
    added = jax.tree.map(lambda x: jax.numpy.float32(rng.normal(size=x.shape)), added)
    params = lora.adapt(base, added, adapters)
    writer.write_model(tmp_path / "mine", params, "llama", config, lora=adapters)
    writer.write_model(tmp_path / "whole", lora.merge(params, adapters), "llama", config)
    mine, whole = (tiny.contents(tmp_path / name) for name in ("mine", "whole"))
    assert mine.keys() == whole.keys()
    for name, x in whole.items():
        np.testing.assert_allclose(mine[name], x, rtol=1e-6, atol=1e-5, err_msg=name)
