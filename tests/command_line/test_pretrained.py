"""From a pretrained model to a finetuned one that others read, at toy size, with random weights."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import sequencematch
from sequencematch.cli import exporting, resume
from sequencematch.data.subword import read_tokenizer
from sequencematch.models import lora
from sequencematch.setup.build import build
from sequencematch.setup.defaults import lora_config
from tests.command_line.command import ROOT, TINY, event_at_step, read_json, records, run_command
from tests.train.runs import Crash, crash

SIZES = {key: value for key, value in TINY.items() if not key.startswith("model.")}
SIZES |= {"prompt_slots": 10, "train.steps": 6, "train.bc_steps": 4, "evaluate.every": 6}


def flags_of(name, directory, folder, **changes):
    values = SIZES | {"model.path": directory, **changes}
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    return [f"--config={ROOT / 'configs' / name}", *flags, f"--workdir={folder}"]


@pytest.mark.stress
def test_it_is_finetuned_and_exported(directory, pairs_file, tmp_path, capfd, monkeypatch):
    folder, out = tmp_path / "run", tmp_path / "mine"
    flags = flags_of("pretrained.py:bc", directory, folder, **{"data.path": pairs_file})
    assert run_command(*flags) == 0, capfd.readouterr().err
    assert records(folder / "metrics.jsonl")
    here = [f"--workdir={folder}"]
    assert run_command(*here, "--mode=export", f"--out={out}") == 0, capfd.readouterr().err
    card = (out / "README.md").read_text()
    assert "- method: bc\n" in card and "- task: words\n" in card
    sequencematch.load(folder).export(tmp_path / "again")
    for path in out.iterdir():
        expected = path.read_bytes().replace(b"# mine", b"# again")
        assert (tmp_path / "again" / path.name).read_bytes() == expected, path.name
    assert read_json(out / "config.json")["vocab_size"] == read_tokenizer(directory).vocab_size
    assert run_command(*here, "--mode=export", f"--out={out}") == 2
    assert "is not empty" in capfd.readouterr().err
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert run_command(*here, "--mode=export", "--adapter", "--out=.") == 2
    assert "this run has no adapters" in capfd.readouterr().err
    assert run_command(*here, "--mode=export", "--out=.") == 0, capfd.readouterr().err
    assert (tmp_path / "empty" / "config.json").is_file()


@pytest.mark.stress
def test_adapters_are_trained_resumed_and_exported(directory, pairs_file, tmp_path, capfd):
    """The base is read from its directory at each start, and no checkpoint has it."""
    changes = {"data.path": pairs_file, "model.lora_rank": 2, "checkpoint.every": 3}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run_command(*flags_of("pretrained.py:bc", directory, whole, **changes)) == 0
    assert re.search(
        r"of them trained, [\d.]+ .iB; frozen ones take [\d.]+ .iB", capfd.readouterr().out
    )
    with event_at_step(4, crash), pytest.raises(Crash):
        run_command(*flags_of("pretrained.py:bc", directory, halves, **changes))
    moved = shutil.copytree(directory, tmp_path / "base")
    resumed = [f"--workdir={halves}", "--resume", f"--config.model.path={moved}"]
    assert run_command(*resumed) == 0, capfd.readouterr().err
    assert records(halves / "metrics.jsonl") == records(whole / "metrics.jsonl")
    _, state = resume.open_run(whole)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state)]
    saved = [path for path in paths if "params" in path or "opt_state" in path]
    arrays = [path for path in saved if "kernel" in path or "lora" in path or "scale" in path]
    assert len(arrays) >= 3 * 2 and "embedding" not in str(saved)  # of each a value and two moments
    assert [path for path in arrays if "lora" not in path and "edits" not in path] == []
    assert run_command(f"--workdir={whole}", "--mode=export", f"--out={tmp_path / 'out'}") == 0
    alone = tmp_path / "adapter"
    assert run_command(f"--workdir={whole}", "--mode=export", "--adapter", f"--out={alone}") == 0
    assert "model.resize_token_embeddings(" in (alone / "README.md").read_text()
    assert (alone / "tokenizer.json").is_file() and (alone / "generate.py").is_file()
    sequencematch.load(whole).export(tmp_path / "same", adapter=True)
    assert {x.name for x in (tmp_path / "same").iterdir()} == {x.name for x in alone.iterdir()}
    assert_base_is_checked(whole)
    assert_base_may_move(whole, directory, tmp_path / "elsewhere", capfd)
    assert_begins_with(alone, whole, {"model.lora_rank": 4, "model.lora_alpha": 3.0})
    assert_resumes_without(
        alone, flags_of("pretrained.py:bc", directory, tmp_path / "on", **changes)
    )
    for name, more in {"next": {}, "last": {"train.frozen": "lora_a|^edits", "seed": 5}}.items():
        flags = flags_of("pretrained.py:bc", directory, tmp_path / name, **changes, **more)
        assert_needs_no_other_run(whole, flags, keeps=bool(more))
    config = resume.open_run(whole)[0].config.copy_and_resolve_references()
    config.init, config.model.lora_base = f"run:{whole}", "bfloat16"
    half = build(config)
    kernels = jax.tree.leaves(half.with_frozen(resume.initial_parameters(half)).frozen["blocks"])
    assert {x.dtype.name for x in kernels if x.ndim == 3} == {"bfloat16"}
    with pytest.raises(ValueError, match="has rank 2: set config.model.lora_rank=2"):
        assert_begins_with(alone, whole, {"model.lora_rank": 1})
    with pytest.raises(ValueError, match="adapts blocks/attention/query.*: name them, too"):
        assert_begins_with(alone, whole, {"model.lora_targets": "value"})


def assert_resumes_without(adapter, flags):
    """A run that began with an adapter reads its directory once."""
    moved = adapter.with_name("moved")
    with event_at_step(4, crash), pytest.raises(Crash):
        run_command(*flags, f"--config.init=adapter:{adapter}")
    adapter.rename(moved)
    assert run_command(flags[-1], "--resume") == 0
    moved.rename(adapter)


def assert_needs_no_other_run(folder, flags, keeps):
    """A run that goes on with the adapters of another keeps what the model's directory has not."""
    other = shutil.copytree(folder, folder.with_name("other"))
    assert run_command(*flags, f"--config.init=run:{other}") == 0
    shutil.rmtree(other)
    assert run_command(flags[-1], "--mode=sample", "--prompt=a") == 0
    assert (Path(flags[-1].removeprefix("--workdir=")) / "frozen").exists() == keeps


def assert_base_is_checked(folder):
    """Of a run that begins with another's weights an adapter is one of the model that it names."""
    parts, _ = resume.open_run(folder)
    parts.config.init = f"run:{folder}"
    parts = parts.with_frozen(resume.first_parameters(parts))
    exporting.check_base(parts)
    other = parts._replace(frozen=jax.tree.map(lambda x: x + 1, parts.frozen))
    with pytest.raises(ValueError, match="did not begin with the weights in .*without --adapter"):
        exporting.check_base(other)


def assert_base_may_move(folder, directory, elsewhere, capfd):
    """A model is known by its weights and by what it computes, not by its place."""
    model = sequencematch.load(folder, base=shutil.copytree(directory, elsewhere))
    assert model.answer(["a"]) == sequencematch.load(folder).answer(["a"])
    flag = f"--config.model.path={elsewhere}"
    here = [f"--workdir={folder}", "--mode=sample", "--prompt=a", flag]
    assert run_command(*here) == 0, capfd.readouterr().err
    config = read_json(elsewhere / "config.json")
    (elsewhere / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert run_command(*here) == 2
    assert "computes otherwise than the model that the run in" in capfd.readouterr().err


def assert_begins_with(adapter, folder, changes):
    """A run that begins with the adapter computes what the run computes from which it is."""
    parts, state = resume.open_run(folder)
    config = parts.config.copy_and_resolve_references()
    config.update_from_flattened_dict({"init": f"adapter:{adapter}", **changes})
    found, expected = (
        lora.merge(params, lora_config(c))
        for params, c in (
            (resume.first_parameters(build(config)), config),
            (parts.whole(state.params), parts.config),
        )
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_run_of_another_network_is_not_exported(finished_run, assert_refused, tmp_path):
    where = [f"--workdir={finished_run}", "--mode=export"]
    words = ["did not begin with a pretrained model", "config.model.path"]
    assert_refused(words, *where, f"--out={tmp_path / 'out'}")
    assert_refused(["--mode=export needs --out=DIR"], *where)


@pytest.mark.stress
def test_the_papers_arithmetic_runs(directory, tmp_path, capfd):
    flags = flags_of(
        "llama_arithmetic.py:sequencematch",
        directory,
        tmp_path / "run",
        **{"data.dir": tmp_path, "task": "arithmetic", "data.bases": "(10,)", "prompt_slots": 48},
        **{"max_actions": 20, "evaluate.max_actions": 40, "noise.kind": "ground_truth"},
    )
    assert run_command(*flags) == 0, capfd.readouterr().err
