"""config.init=run:DIR starts from the parameters of another run, and from nothing else of it."""

import shutil

import jax
import numpy as np
import pytest

from sequencematch.cli import resume
from sequencematch.models.pretrained.families import EDITS, leaves_by_path
from sequencematch.setup.build import Parts, build
from tests.command_line.command import event_at_step, read_json, records, run_command
from tests.marks import stress
from tests.train.runs import STEPS, Crash, crash


@pytest.mark.stress
def test_starts_from_the_parameters_and_counts_anew(tiny_flags, finished_run, tmp_path, capfd):
    folder = tmp_path / "run"
    more = [f"--config.init=run:{finished_run}", "--config.seed=9"]
    assert run_command(*tiny_flags, *more, f"--workdir={folder}") == 0, capfd.readouterr().err
    steps = [r["step"] for r in records(folder / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    assert read_json(folder / "summary.json")["steps"] == STEPS
    first = records(folder / "metrics.jsonl")[0]
    # The optimiser has warmed up from 0 again.
    assert first["learning_rate"] == 0
    parts, state = resume.open_run(finished_run)
    parts.config.init = f"run:{finished_run}"
    jax.tree.map(np.testing.assert_array_equal, resume.initial_parameters(parts), state.params)


@pytest.mark.stress
def test_what_is_not_trained_stays_that_of_the_other_run_whatever_becomes_of_it(
    tiny_flags, finished_run, crashed_run, tmp_path, capfd
):
    """The run keeps a copy: the other may go on, or go away. One of before has none."""
    source, folder = shutil.copytree(finished_run, tmp_path / "source"), tmp_path / "run"
    more = [f"--config.init=run:{source}", "--config.train.frozen=embedding|blocks"]
    more += ["--config.method=bc"]  # one step to compile
    flags = [*tiny_flags, *more, "--config.train.steps=6", f"--workdir={folder}"]
    assert run_command(*flags) == 0, capfd.readouterr().err
    (theirs, before), (ours, after) = resume.open_run(source), resume.open_run(folder)
    trained, frozen = ours.split(theirs.whole(before.params))
    jax.tree.map(np.testing.assert_array_equal, ours.frozen, frozen)
    assert jax.tree.structure(after.params) == jax.tree.structure(trained)
    assert not np.array_equal(after.params["head"]["kernel"], trained["head"]["kernel"])
    shutil.rmtree(source)
    assert run_command(f"--workdir={folder}", "--mode=evaluate") == 0, capfd.readouterr().err
    longer = [f"--workdir={folder}", "--resume", "--config.train.steps=8"]
    assert run_command(*longer) == 0, capfd.readouterr().err
    # A run of the same sizes with other parameters.
    shutil.copytree(crashed_run, source)
    shutil.rmtree(folder / "frozen")
    assert run_command(f"--workdir={folder}", "--mode=evaluate") == 2
    assert "not those that it began with: put back what config.init=" in capfd.readouterr().err


@pytest.mark.stress
def test_what_a_start_that_was_killed_has_kept_is_not_used(
    tiny_flags, finished_run, crashed_run, tmp_path, capfd
):
    """The other run has gone on meanwhile, and the run begins with what that is now."""
    source, folder = shutil.copytree(finished_run, tmp_path / "source"), tmp_path / "run"
    flags = [*tiny_flags, f"--config.init=run:{source}", "--config.train.frozen=embedding|blocks"]
    flags += ["--config.method=bc", "--config.train.steps=6", f"--workdir={folder}"]
    with event_at_step(1, crash), pytest.raises(Crash):
        run_command(*flags)
    assert (folder / "frozen").is_dir()
    shutil.rmtree(source)
    shutil.copytree(crashed_run, source)
    assert run_command(*flags, "--resume") == 0, capfd.readouterr().err
    theirs, state = resume.open_run(source)
    ours, _ = resume.open_run(folder)
    expected = ours.split(theirs.whole(state.params))[1]
    jax.tree.map(np.testing.assert_array_equal, ours.frozen, expected)


@pytest.mark.stress
def test_what_was_drawn_and_is_not_trained_is_not_drawn_again(
    tiny_flags, tmp_path, monkeypatch, capfd
):
    """Another kind of CPU draws numbers of other last bits."""
    folder = tmp_path / "run"
    more = ["--config.train.frozen=embedding", "--config.method=bc", "--config.train.steps=6"]
    assert run_command(*tiny_flags, *more, f"--workdir={folder}") == 0, capfd.readouterr().err
    monkeypatch.setattr(resume, "first_parameters", lambda *_, **__: pytest.fail("it was drawn"))
    assert run_command(f"--workdir={folder}", "--mode=evaluate") == 0, capfd.readouterr().err
    longer = [f"--workdir={folder}", "--resume", "--config.train.steps=8"]
    assert run_command(*longer) == 0, capfd.readouterr().err


@pytest.mark.stress
def test_what_is_not_trained_may_be_in_4_bits(tiny_flags, tmp_path, capfd):
    """The copy has a byte for each, since files have no such type."""
    source, folder = tmp_path / "source", tmp_path / "run"
    sizes = {"d_model": 64, "d_ff": 64, "lora_rank": 2, "lora_base": "nf4"}
    flags = [*tiny_flags, *(f"--config.model.{key}={value}" for key, value in sizes.items())]
    flags += ["--config.method=bc", "--config.train.steps=6"]
    assert run_command(*flags, f"--workdir={source}") == 0, capfd.readouterr().err
    more = [f"--config.init=run:{source}", "--config.seed=9", f"--workdir={folder}"]
    assert run_command(*flags, *more) == 0, capfd.readouterr().err
    theirs, ours = (resume.open_run(each)[0].frozen for each in (source, folder))
    jax.tree.map(np.testing.assert_array_equal, theirs, ours)
    assert "uint4" in {x.dtype.name for x in jax.tree.leaves(ours)}
    shutil.rmtree(source)
    longer = [f"--workdir={folder}", "--resume", "--config.train.steps=8"]
    assert run_command(*longer) == 0, capfd.readouterr().err


@pytest.mark.stress
def test_what_is_not_trained_is_made_once_also_where_nothing_was_saved(
    tiny_flags, tmp_path, monkeypatch
):
    """A base of gigabytes is in memory once."""
    made, make = [], resume.first_parameters

    def note(parts):
        made.append(parts)
        return make(parts)

    monkeypatch.setattr(resume, "first_parameters", note)
    flags = [*tiny_flags, "--config.model.lora_rank=2", "--config.method=bc"]
    flags += ["--config.train.steps=6", f"--workdir={tmp_path / 'run'}"]
    with event_at_step(1, crash), pytest.raises(Crash):
        run_command(*flags)
    assert len(made) == 1
    monkeypatch.setattr(Parts, "initial", None)
    assert run_command(*flags, "--resume") == 0
    assert len(made) == 2


def test_edits_that_the_other_run_has_not_taught_begin_as_on_a_pretrained_model(
    finished_run, monkeypatch
):
    theirs, state = resume.open_run(finished_run)
    config = theirs.config.copy_and_resolve_references()
    config.init = f"run:{finished_run}"
    parts = build(config)
    theirs.config.method = "mle"
    monkeypatch.setattr(resume, "open_run", lambda *_, **__: (theirs, state))
    found = leaves_by_path(resume.initial_parameters(parts))
    for path, x in leaves_by_path(state.params).items():
        assert np.array_equal(found[path], x) == (path != EDITS), path


def test_another_tokenizer_is_refused(tiny_flags, finished_run, assert_refused, tmp_path):
    flags = [f"--config.init=run:{finished_run}", "--config.edits=('<reset>',)"]
    words = ["config.init=", "another tokenizer"]
    assert_refused(words, *tiny_flags, *flags, f"--workdir={tmp_path / 'run'}")


@pytest.mark.parametrize("change", ["d_ff=32", stress("rope_base=500")])
def test_another_network_is_refused(tiny_flags, finished_run, assert_refused, tmp_path, change):
    """Also one whose parameters have the same shapes, but that computes something else."""
    flags = [f"--config.init=run:{finished_run}", f"--config.model.{change}"]
    words = ["config.init=", "other sizes, or that computes otherwise", "'d_ff': 16"]
    assert_refused(words, *tiny_flags, *flags, f"--workdir={tmp_path / 'run'}")


def test_no_run_is_refused(tiny_flags, assert_refused, tmp_path):
    flags = [f"--config.init=run:{tmp_path / 'none'}", f"--workdir={tmp_path / 'run'}"]
    assert_refused(["none"], *tiny_flags, *flags)
    assert_refused(["config.init=", "run:DIR"], *tiny_flags, "--config.init=elsewhere")
