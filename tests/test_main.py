"""The command line, in this process: what a run leaves, how it goes on, and every refusal."""

import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sequencematch import judge, memory, modes, provenance, workdir
from sequencematch import main as main_module
from sequencematch.core import mdp
from sequencematch.data import arithmetic
from sequencematch.data.tokenizer import CharTokenizer
from sequencematch.main import main
from tests.train import runs
from tests.train.runs import CLONING, LOOKS, STEPS, At, Crash, crash

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'configs' / 'arithmetic.py'}"
SAVED = 8
# The run of tests/train, so that its steps are compiled for all of them once.
TINY = runs.TINY | {
    "noise.eta": 0.3,
    "evaluate.rows": 8,
    "evaluate.max_actions": 8,
    "checkpoint.every": SAVED,
}
LAST = STEPS - SAVED  # step of the checkpoint before the last


@pytest.fixture(scope="module")
def pairs(spellings):
    """The file of questions and answers."""
    return pathlib.Path(spellings)


@pytest.fixture(scope="module")
def tiny(pairs):
    """The flags of a run that takes seconds."""
    values = {**TINY, "data.path": pairs}
    return [CONFIG, *(f"--config.{key}={value}" for key, value in values.items())]


def command(*args):
    return main(["main.py", *map(str, args)])


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """The folder of a run that is done; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert command(*tiny, f"--workdir={folder}") == 0
    return folder


def read(path):
    return json.loads(path.read_text())


def records(path):
    """Lines of a jsonl file, without what the clock says."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second", "time")}
        for r in lines
    ]


# What a run leaves.


def test_a_run_leaves_its_configuration_metrics_summary_traces_and_report(finished):
    assert {path.name for path in finished.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "traces.jsonl",
        "report.html",
        "checkpoints",
        "tensorboard",
        "lock",
    }
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {str(LAST), str(STEPS)}
    assert any("tfevents" in path.name for path in (finished / "tensorboard").iterdir())
    assert (finished / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    config, summary = read(finished / "config.json"), read(finished / "summary.json")
    assert config["name"] == summary["name"] == "arithmetic"
    assert config["config"] == summary["config"]
    assert config["config"]["train"]["steps"] == summary["steps"] == STEPS


def test_metrics_have_every_step_once_and_the_looks_at_the_validation_set(finished):
    found = records(finished / "metrics.jsonl")
    train = [r for r in found if r["kind"] == "train"]
    assert [r["step"] for r in train] == list(range(1, STEPS + 1))
    cloning = ["bc"] * CLONING
    assert [r["phase"] for r in train] == cloning + ["sequencematch"] * (STEPS - CLONING)
    looks = [r for r in found if r["kind"] == "validation"]
    assert [r["step"] for r in looks] == list(LOOKS)
    assert all(r["accuracy/greedy_low"] <= r["accuracy/greedy"] for r in looks)


def test_the_summary_counts_what_the_traces_show(finished):
    summary, traces = read(finished / "summary.json"), records(finished / "traces.jsonl")
    slots = TINY["prompt_slots"] + TINY["max_actions"]
    assert summary["tokens"] == slots * 8 * (CLONING + 2 * (STEPS - CLONING))
    assert summary["sampled_tokens"] == slots * 8 * 7  # before steps 4, 7, ..., 22
    for decode in ("greedy", "sampled"):
        of_it = [trace for trace in traces if trace["decode"] == decode]
        assert summary["test"][decode]["n"] == len(of_it) == TINY["data.test"]
        assert summary["test"][decode]["right"] == sum(trace["right"] for trace in of_it)
        used = sum(trace["actions"].count("<bkspc>") for trace in of_it)
        assert summary["test"][decode]["edits"]["per_action"] == pytest.approx(
            used / sum(len(trace["actions"]) for trace in of_it)
        )


def test_evaluating_again_says_the_same_and_trains_nothing(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "traces.jsonl").unlink()
    assert command("--mode=evaluate", f"--workdir={folder}") == 0
    before, after = read(finished / "summary.json"), read(folder / "summary.json")
    assert after.pop("seconds")["train"] == before.pop("seconds")["train"]
    assert after == before
    assert records(folder / "traces.jsonl") == records(finished / "traces.jsonl")
    assert (folder / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    printed = capsys.readouterr().out
    assert f"of {TINY['data.test']} test questions right" in printed
    assert str(folder / "report.html") in printed


def test_a_dry_run_says_what_the_run_will_do_and_does_nothing(tiny, finished, tmp_path, capsys):
    assert command(*tiny, f"--workdir={tmp_path / 'new'}", "--dry_run") == 0
    printed, summary = capsys.readouterr(), read(finished / "summary.json")
    assert printed.err == "" and not list(tmp_path.iterdir())
    cells = [re.split(r"  +", line.strip()) for line in printed.out.splitlines()]
    slots = TINY["prompt_slots"] + TINY["max_actions"]
    cloned = slots * 8 * CLONING
    assert ["bc", "0", "to", f"{CLONING}", f"{cloned:,}", "0"] in cells
    matched, sampled = f"{summary['tokens'] - cloned:,}", f"{summary['sampled_tokens']:,}"
    assert ["sequencematch", f"{CLONING}", "to", f"{STEPS}", matched, sampled] in cells
    for words in ("40 train, 8 validation, 8 test", f"{summary['parameters']:,} parameters"):
        assert words in printed.out
    for part in ("the parameters", "the replay buffer", "gradients and activations", "at most"):
        assert part in [cell for row in cells for cell in row]


def test_a_dry_run_goes_on_where_the_run_would(interrupted, tmp_path, capsys):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    before = contents(tmp_path)
    assert command(f"--workdir={folder}", "--resume", "--dry_run") == 0
    printed = capsys.readouterr().out
    assert contents(tmp_path) == before
    assert re.search(rf"^ *sequencematch +{SAVED} +to +{STEPS} ", printed, re.MULTILINE)
    assert not re.search(r"^ *bc ", printed, re.MULTILINE)


def test_how_a_run_is_evaluated_may_change(tiny, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    flags = [*tiny, f"--workdir={folder}", "--mode=evaluate", "--config.evaluate.traces=3"]
    assert command(*flags) == 0
    assert len(records(folder / "traces.jsonl")) == 2 * 3
    assert read(folder / "config.json") == read(finished / "config.json")


def test_sampling_prints_question_symbols_and_final_text(finished, capsys):
    greedy = [t for t in records(finished / "traces.jsonl") if t["decode"] == "greedy"]
    for trace in greedy[:2]:
        prompt = trace["prompt"]
        assert command("--mode=sample", f"--workdir={finished}", f"--prompt={prompt}") == 0
        printed = capsys.readouterr().out
        assert printed == f"{prompt} {''.join(trace['actions'])}\n{trace['text']}\n"


def test_sampling_shows_deletions(finished, monkeypatch, capsys):
    actions = [4, 5, 3, 6, 2]  # two characters, <bkspc>, another, <eos>
    monkeypatch.setattr(modes.stream, "actions", lambda *_, **__: iter(actions))
    assert command("--mode=sample", f"--workdir={finished}", "--prompt=abc>") == 0
    assert capsys.readouterr().out == "abc> >a<bkspc>b<eos>\n>b\n"


def test_a_terminal_shows_deletions_struck_through():
    tokenizer = CharTokenizer("ab", ("<bkspc>", "<bkspc2>"))
    decisions = mdp.make(tokenizer.vocab_size, eos=2, pad=0, never=[1], edits=tokenizer.pops)
    run = SimpleNamespace(tokenizer=tokenizer, recipe=SimpleNamespace(mdp=decisions))
    text = modes.struck(run, "?", [4, 5, 6, 5, 3, 4, 2])
    assert text.plain == "? ab⌫2b⌫a<eos>"
    struck = [text.plain[s.start : s.end] for s in text.spans if s.style == "red strike"]
    assert struck == ["a", "b", "b"]


def test_a_run_that_starts_anew(tiny, tmp_path, capsys):
    """RESET from the data to the report: trained on, used, biased, and struck through."""
    folder, name = tmp_path / "run", "--config.edits=<reset>"
    assert command(*tiny, name, f"--workdir={folder}", "--config.evaluate.edit_bias=3.0") == 0
    traces = records(folder / "traces.jsonl")
    assert any("<reset>" in trace["actions"] for trace in traces)
    for trace in traces:
        *before, after = "".join(trace["actions"]).replace("<eos>", "").split("<reset>")
        assert "<bkspc>" not in trace["actions"] and trace["text"] == after
        assert sum(trace["deleted"]) == sum(map(len, before))
    assert read(folder / "summary.json")["test"]["sampled"]["edits"]["answers"] > 0
    assert "↺" in (folder / "report.html").read_text()
    for bias in (-99.0, 99.0):
        flags = [*tiny, name, f"--workdir={folder}", f"--config.evaluate.edit_bias={bias}"]
        capsys.readouterr()
        assert command(*flags, "--mode=sample", "--prompt=abc>") == 0
        assert ("<reset>" in capsys.readouterr().out) == (bias > 0)


def test_edits_that_make_no_table_are_refused(tiny, refused, tmp_path):
    flags = [*tiny, f"--workdir={tmp_path / 'new'}"]
    refused(["config.edits=('<rest>',)", "did you mean '<reset>'"], *flags, "--config.edits=<rest>")
    refused(["alone"], *flags, "--config.edits=('<reset>', '<bkspc>')")


def test_help_is_no_error(capsys):
    assert command("--help") == 0
    printed = capsys.readouterr()
    assert "--mode" in printed.out and "--workdir" in printed.out and printed.err == ""


def test_flags_may_stand_in_any_order(tiny, finished, capsys):
    file, *overrides = tiny
    flags = ["--config.seed", "7", *overrides, "--resume", f"--workdir={finished}", file]
    assert command(*flags) == 2
    assert "(seed: 0 -> 7)" in capsys.readouterr().err


READING = [["--mode=evaluate"], ["--mode=sample", "--prompt=abc>"]]

# Going on.


@contextlib.contextmanager
def happening(at, happens):
    """Something happens in step `at` of every run inside."""
    data = modes.training_data

    def watched(run):
        episodes, prompts = data(run)
        return At(episodes, at, happens), prompts

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(modes, "training_data", watched)
        yield


@pytest.fixture(scope="module")
def interrupted(tiny, tmp_path_factory):
    """The folder of a run that lost its power two steps after a checkpoint; not to be changed."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with happening(SAVED + 2, crash), pytest.raises(Crash):
        command(*tiny, f"--workdir={folder}")
    return folder


def same(folder, finished):
    """Asserts that a run left what the uninterrupted one left, but for the clock."""
    for name in ("metrics.jsonl", "traces.jsonl"):
        assert records(folder / name) == records(finished / name)
    whole, other = read(finished / "summary.json"), read(folder / "summary.json")
    for summary in (whole, other):
        del summary["seconds"], summary["command"]
    assert other == whole


def test_a_resumed_run_equals_the_uninterrupted_one(interrupted, finished, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    assert len(records(folder / "metrics.jsonl")) == SAVED + 2 + 1
    assert command(f"--workdir={folder}", "--resume") == 0
    same(folder, finished)


@pytest.mark.parametrize(
    "before", ["no folder", "a run without a checkpoint", "a run that was to save later"]
)
def test_resuming_what_has_not_begun_begins_it(tiny, finished, tmp_path, before, capfd):
    folder = tmp_path / "run"
    if before != "no folder":
        folder.mkdir()
    if before == "a run without a checkpoint":
        shutil.copy(finished / "config.json", folder)
        begun = [
            r for r in (finished / "metrics.jsonl").open() if json.loads(r)["step"] <= 2 * SAVED
        ]
        (folder / "metrics.jsonl").write_text("".join(begun))
    if before == "a run that was to save later":
        later = read(finished / "config.json")
        later["config"]["checkpoint"]["every"] = 10 * SAVED
        (folder / "config.json").write_text(json.dumps(later))
        shutil.copy(finished / "metrics.jsonl", folder)
    assert command(*tiny, f"--workdir={folder}", "--resume") == 0
    same(folder, finished)
    assert ("no checkpoint in" in capfd.readouterr().err) == (before.startswith("a run"))


@pytest.mark.parametrize("left", ["metrics.jsonl", "summary.json"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(finished, tmp_path, left, capfd):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.json", left):
        shutil.copy(finished / name, folder)
    before = (folder / left).read_bytes()
    assert command(f"--workdir={folder}", "--resume") == 2
    assert "has saved checkpoints" in capfd.readouterr().err
    assert (folder / left).read_bytes() == before


def test_asked_to_leave_it_says_how_to_go_on_and_goes_on(tiny, finished, tmp_path, capfd):
    folder = tmp_path / "run"
    with happening(SAVED, lambda: signal.raise_signal(signal.SIGTERM)):
        assert command(*tiny, f"--workdir={folder}") == 75
    heard, left = capfd.readouterr().err.splitlines()
    assert heard == "sequencematch: SIGTERM: saving, then leaving"
    assert left == "sequencematch: left on SIGTERM: go on with --resume"
    assert not (folder / "summary.json").exists()
    assert [p.name for p in (folder / "checkpoints").iterdir() if p.name == str(SAVED + 1)]
    assert command(f"--workdir={folder}", "--resume") == 0
    same(folder, finished)


@pytest.mark.parametrize("place", ["build", "validated", "tested"])
def test_it_can_be_left_while_data_are_prepared_and_in_both_evaluations(
    tiny, finished, tmp_path, place, monkeypatch, capfd
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        module = {"build": main_module, "validated": judge, "tested": judge}[place]
        patch.setattr(module, place, lambda *_: signal.raise_signal(signal.SIGINT))
        assert command(*tiny, f"--workdir={folder}") == 75
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert folder.exists() == (place != "build")
    assert command(*tiny, f"--workdir={folder}", "--resume") == 0
    same(folder, finished)


def test_evaluating_after_falling_back_tells_of_the_checkpoint_that_it_evaluates(
    finished, tmp_path, capfd
):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "checkpoints" / str(STEPS) / "meta" / "metadata").unlink()
    assert command(f"--workdir={folder}", "--mode=evaluate") == 0
    assert "is damaged" in capfd.readouterr().err
    summary = read(folder / "summary.json")
    slots = TINY["prompt_slots"] + TINY["max_actions"]
    assert summary["steps"] == LAST
    assert summary["tokens"] == slots * 8 * (CLONING + 2 * (LAST - CLONING))


@pytest.mark.parametrize("mode", [*READING, ["--resume"]])
def test_a_run_of_another_version_is_refused(refused, finished, tmp_path, monkeypatch, mode):
    folder = shutil.copytree(finished, tmp_path / "run")
    restore = modes.Checkpoints.restore

    def older(self, like):
        found = restore(self, like)
        return found._replace(facts={k: x for k, x in found.facts.items() if k != "records"})

    monkeypatch.setattr(modes.Checkpoints, "restore", older)
    refused(["another version", "records"], f"--workdir={folder}", *mode)


def test_lost_metrics_are_said(interrupted, tmp_path, capfd):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[1:]))
    assert command(f"--workdir={folder}", "--resume") == 0
    assert f"metrics.jsonl has {SAVED - 1} of {SAVED} records" in capfd.readouterr().err


def test_a_damaged_checkpoint_is_set_aside_and_the_run_is_the_same(finished, tmp_path, capfd):
    folder = shutil.copytree(finished, tmp_path / "run")
    newest = folder / "checkpoints" / str(STEPS)
    for file in newest.glob("state/**/d/*"):
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 4  # one bit
        file.write_bytes(raw)
    assert command(f"--workdir={folder}", "--resume") == 0
    said = capfd.readouterr()
    assert f"checkpoint {newest} is damaged" in said.err
    assert f"going back to that of step {LAST}" in said.err
    assert f"{folder / 'damaged' / str(STEPS)}/" in said.out
    same(folder, finished)
    assert newest.is_dir() and (folder / "damaged" / str(STEPS)).is_dir()


def test_other_code_is_said(interrupted, tmp_path, monkeypatch, capfd):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    another = {**provenance.provenance(), "revision": "another"}
    monkeypatch.setattr(modes, "provenance", lambda: another)
    assert command(f"--workdir={folder}", "--resume") == 0
    error = capfd.readouterr().err
    assert "saved elsewhere (revision " in error and "-> another)" in error
    summary = read(folder / "summary.json")
    assert summary["revision"] == "another"
    assert summary["earlier"] == [dict(provenance.provenance())]
    monkeypatch.undo()
    assert command(f"--workdir={folder}", "--mode=evaluate") == 0
    again = read(folder / "summary.json")
    assert again["revision"] == "another" and again["evaluated_by"] == dict(provenance.provenance())
    assert command(f"--workdir={folder}", "--resume") == 0  # a run that is done: nothing is trained
    assert read(folder / "summary.json")["revision"] == "another"


@pytest.mark.stress
def test_a_run_may_go_on_on_other_devices(tiny, interrupted, finished, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    assert command(*tiny, f"--workdir={folder}", "--resume", "--config.mesh.data=2") == 0
    assert read(folder / "config.json")["config"]["mesh"]["data"] == 2
    there, here = (
        [r["loss"] for r in records(f / "metrics.jsonl") if "loss" in r] for f in (folder, finished)
    )
    assert there == pytest.approx(here, rel=1e-5)


def test_what_is_not_finite_stops_the_run_with_one_line(
    tiny, finished, tmp_path, monkeypatch, capfd
):
    def poisoned(run):
        plan = make_plan(run)
        step = plan.phases[0].step

        def bad(state, batch):
            params = jax.tree.map(lambda x: x * np.nan, state.params)
            return step(state._replace(params=params) if int(state.step) > 0 else state, batch)

        phases = [plan.phases[0]._replace(step=bad), *plan.phases[1:]]
        return plan._replace(phases=phases, skip_nonfinite=0)

    make_plan = modes.make_plan
    monkeypatch.setattr(modes, "make_plan", poisoned)
    assert command(*tiny, f"--workdir={tmp_path / 'run'}") == 3
    error = capfd.readouterr().err
    assert error.startswith(
        "sequencematch: step 2: bc, loss, gradient_norm, update_norm not finite"
    )
    assert len(error.splitlines()) == 1
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert command(f"--workdir={tmp_path / 'run'}", "--resume") == 3


def test_a_full_disk_stops_the_run_with_one_line(tiny, finished, tmp_path, capfd):
    folder, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        full = (5_000, before[1])  # enough for a step's metrics, not for a checkpoint
        with happening(SAVED + 1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, full)):
            assert command(*tiny, f"--workdir={folder}") == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capfd.readouterr().err
    assert error.startswith("sequencematch: stopped: ") and "File too large" in error
    assert "go on with --resume" in error and len(error.splitlines()) == 1
    assert command(f"--workdir={folder}", "--resume") == 0
    same(folder, finished)


def test_names_in_the_metadata_lead_nowhere(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "runs" / "run")
    record = read(folder / "config.json")
    evil = ["../../evil", str(tmp_path / "evil"), "<script>alert(1)</script>"]
    for name, mode in zip(evil, ("--resume", "--mode=evaluate", "--resume"), strict=True):
        (folder / "config.json").write_text(json.dumps(record | {"name": name}))
        assert command(f"--workdir={folder}", mode) == 0
        assert "<script>alert" not in (folder / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]


def test_a_file_of_a_run_has_no_code_run_and_no_data_made(refused, finished, tmp_path, monkeypatch):
    """What came with a folder may be somebody else's; on the command line it is one's own."""
    folder = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "payload.py").write_text("raise AssertionError('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    record = read(folder / "config.json")
    elsewhere = {"dir": str(tmp_path / "elsewhere")}
    for changes, words in (
        ({"task": "payload:task"}, ["Python code", "task='payload:task'", "--config=FILE"]),
        ({"task": "arithmetic", "data": record["config"]["data"] | elsewhere}, ["data.dir="]),
    ):
        changed = record | {"config": record["config"] | changes}
        (folder / "config.json").write_text(json.dumps(changed))
        for mode in (*READING, ["--resume"], ["--resume", "--dry_run"]):
            refused(words, f"--workdir={folder}", *mode)


def test_other_data_than_the_run_was_trained_on_are_refused(tiny, refused, tmp_path, pairs):
    """One line more would move every example to another place, and a letter more every token."""
    words, folder = tmp_path / "words.jsonl", tmp_path / "run"
    shutil.copy(pairs, words)
    with happening(SAVED + 1, crash), pytest.raises(Crash):
        command(*tiny, f"--config.data.path={words}", f"--workdir={folder}")
    for line in ('{"prompt": "dd>", "completion": "dd"}', '{"prompt": "z>", "completion": "z"}'):
        words.write_text(pairs.read_text() + "\n" + line)
        for mode in (*READING, ["--resume"], ["--resume", "--dry_run"]):
            refused([f"the data of the run in {folder}"], f"--workdir={folder}", *mode)
    record = read(folder / "config.json")
    del record["data"]  # the checkpoint says it, too
    (folder / "config.json").write_text(json.dumps(record))
    words.write_text(pairs.read_text() + '\n{"prompt": "dd>", "completion": "dd"}')
    for mode in (*READING, ["--resume"], ["--resume", "--dry_run"]):
        refused([f"the data of the run in {folder}"], f"--workdir={folder}", *mode)
    shutil.copy(pairs, words)
    assert command(f"--workdir={folder}", "--mode=evaluate") == 0


def test_two_runs_cannot_share_a_folder(refused, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    with workdir.locked(folder):
        for mode in (["--resume"], ["--mode=evaluate"], ["--resume", "--dry_run"]):
            refused([f"{folder} is in use by process {os.getpid()}"], f"--workdir={folder}", *mode)
    assert command(f"--workdir={folder}", "--mode=evaluate") == 0


def test_a_run_that_was_cut_can_be_evaluated(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    assert command("--mode=evaluate", f"--workdir={folder}") == 0
    assert read(folder / "summary.json")["steps"] == SAVED
    assert (folder / "report.html").is_file()


# Refusals: exit code 2, one line, nothing written or overwritten.


def contents(folder):
    """Every file and folder below, and what is in it."""
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def refused(tmp_path, capfd):
    """Asserts that a command is refused in one line that has the words, and changes nothing."""

    def check(words, *args, watched=()):
        folders = [tmp_path, *watched]
        before = [contents(folder) for folder in folders]
        capfd.readouterr()
        assert command(*args) == 2
        out, err = capfd.readouterr()
        assert [contents(folder) for folder in folders] == before
        assert out == "" and err.startswith("sequencematch: ") and err.endswith("\n")
        assert len(err.splitlines()) == 1, err
        assert [word for word in words if word not in err] == [], err

    return check


BAD_FLAGS = [
    (["--config.train.stepz=3"], ["config.train.stepz", "did you mean 'train.steps'"]),
    (["--config.objektive.alpha=3"], ["config.objektive.alpha", "'objective.alpha'"]),
    (["--config.train=3"], ["config.train is no key"]),
    (["--config.method=sequencemach"], ["config.method='sequencemach'", "did you mean 'seq"]),
    (["--config.objective.gamma=1"], ["config.objective.gamma=1.0", "(0, 1)"]),
    (["--config.objective.gamma=0"], ["config.objective.gamma=0.0", "(0, 1)"]),
    (["--config.objective.alpha=0"], ["config.objective.alpha=0.0", "> 0"]),
    (["--config.objective.alpha=-1"], ["config.objective.alpha=-1.0", "> 0"]),
    (["--config.noise.eta=1"], ["config.noise.eta=1.0", "[0, 1)"]),
    (["--config.noise.eta=-.1"], ["config.noise.eta=-0.1", "[0, 1)"]),
    (["--config.objective.policy_weight=1.5"], ["objective.policy_weight=1.5", "[0, 1]"]),
    (["--config.model.heads=3"], ["model.d_model=16", "model.heads=3"]),
    (["--config.model.kv_heads=3"], ["model.heads=4", "model.kv_heads=3"]),
    (["--config.mesh.data=3"], ["train.batch_size=8", "mesh.data=3"]),
    (["--config.mesh.data=8", "--config.mesh.model=2"], ["needs 16 devices, here are 8"]),
    (["--config.train.steps=abc"], ["--config.train.steps=abc"]),
    (["--config.train.steps=1.5"], ["--config.train.steps=1.5"]),
    (["--config.noise.eta=much"], ["--config.noise.eta=much"]),
    (["--config.data.bases=abc"], ["config.data.bases", "abc", "2..16"]),
    (["--config.train.steps"], ["--config.train.steps"]),
    (["--config.prompt_slots=4"], ["prompt_slots=4", "needs 5"]),
    (["--config.max_actions=2"], ["slots=7", "needs 9"]),
    (["--config.task=jsonlines"], ["task='jsonlines'", "did you mean 'jsonl'"]),
    (["--config.task=nowhere:task"], ["nowhere:task"]),
    (["--config.data.path=nowhere.jsonl"], ["data.path='nowhere.jsonl'"]),
    (["--config.data.test=60"], ["data.test=60"]),
    (["--wrokdir=x"], ["wrokdir", "workdir"]),
    (["--mode=trian"], ["--mode=trian", "train|evaluate|sample"]),
    (["stray"], ["'stray' is no flag"]),
    (["--" + "z" * 5000], ["... is no flag"]),
    (["--mode=sample"], ["--prompt"]),
    (["--mode=evaluate"], ["holds no run"]),
    (["--mode=sample", "--prompt=abc>"], ["holds no run"]),
    (["--config.objective.alpha=nan"], ["config.objective.alpha=nan", "finite float32 number"]),
    (["--config.optimizer.learning_rate=1e99"], ["learning_rate=1e+99", "finite float32 number"]),
    (["--config.model.layers=1000000000"], ["config.model.layers=1000000000", "[1, 1000]"]),
    (["--config.rollout.capacity=1000000000000"], ["capacity=1000000000000", "[1, 2**31)"]),
    (["--config.rollout.capacity=2000000000"], ["the replay buffer", "capacity=2000000000"]),
    (["--config.model.d_model=1048576"], ["on each device", "config.model.d_model=1048576"]),
    (["--config.train.batch_size=1000000000"], ["gradients", "train.batch_size=1000000000"]),
    (["--config.evaluate.rows=1000000000"], ["answering questions", "evaluate.rows=1000000000"]),
    (["--config.data.dir=/dev/null/data"], ["config.data.dir='/dev/null/data'", "a folder"]),
    (["--dry_run=maybe"], ["--dry_run=maybe"]),
    (["--dry_run", "--config.data.test=60"], ["data.test=60"]),
    (["--dry_run", "--mode=evaluate"], ["--dry_run is for --mode=train"]),
    (["--dry_run", "--mode=sample", "--prompt=abc>"], ["--dry_run is for --mode=train"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS)
def test_bad_flags_are_refused(tiny, tmp_path, refused, flags, words):
    refused(words, *tiny, f"--workdir={tmp_path / 'new'}", *flags)


def test_what_cannot_be_shown_is_escaped(tiny, refused, tmp_path):
    refused([r"--workdir=\x1b[2J\u202e holds no run"], "--workdir=\x1b[2J\u202e")
    refused([r"\udcff is not UTF-8"], *tiny, f"--workdir={tmp_path}/\udcff")


def test_a_file_that_is_not_there_gets_the_nearest_one(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    new = f"--workdir={tmp_path / 'new'}"
    near = "did you mean 'configs/arithmetic.py'"
    refused(["configs/arithmetik.py: no such file", near], "--config=configs/arithmetik.py", new)
    refused(["confgis/arithmetic.py: no such file", near], "--config=confgis/arithmetic.py:bc", new)
    refused(["no such file"], "--config=", new)
    refused(["--config=/nowhere/zzzzzzzzz.q"], "--config=/nowhere/zzzzzzzzz.q", new)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", ["ZeroDivisionError", "division by zero"]),
        ("def get_config(:", ["SyntaxError"]),
        ("raise SystemExit(0)", ["SystemExit: 0"]),
        ("import nowhere_at_all", ["ModuleNotFoundError", "nowhere_at_all"]),
        ("def get_config():\n    raise ValueError('two\\nlines')", ["ValueError: two lines"]),
        ("def get_config():\n    return None", ["TypeError", "ConfigDict"]),
        (
            "from ml_collections import ConfigDict\n"
            "def get_config():\n    return ConfigDict({'seed': 1})",
            ["is missing", "defaults()"],
        ),
    ],
)
def test_a_file_that_fails_is_named(refused, tmp_path, source, words):
    (tmp_path / "broken.py").write_text(source)
    for flags in ([], ["--config.seed=1"]):
        name = f"--config={tmp_path / 'broken.py'}"
        known = [] if "missing" in words[0] else ["broken.py"]
        refused([*known, *words], name, f"--workdir={tmp_path / 'new'}", *flags)


def test_nothing_to_work_on_is_said(refused, tmp_path):
    refused(["--config=configs/arithmetic.py", "--workdir=DIR"])
    refused(["--config.seed", "--config=FILE"], "--config.seed=3", f"--workdir={tmp_path}")
    refused(["holds no run"], f"--workdir={tmp_path / 'new'}")


def test_a_folder_that_is_taken_is_left_alone(tiny, refused, finished, tmp_path):
    for dry in ([], ["--dry_run"]):
        flags = [*tiny, *dry, f"--workdir={finished}"]
        refused(["not empty", "--resume"], *flags, watched=[finished])
    (tmp_path / "notes.txt").write_text("mine")
    refused(["not empty"], *tiny, f"--workdir={tmp_path}")
    refused(["holds no run"], *tiny, f"--workdir={tmp_path}", "--resume")
    refused(["notes.txt"], *tiny, f"--workdir={tmp_path / 'notes.txt'}")
    refused(["notes.txt"], *tiny, f"--workdir={tmp_path / 'notes.txt' / 'run'}")


@pytest.mark.parametrize("mode", [["--resume"], ["--mode=evaluate"], ["--resume", "--dry_run"]])
def test_another_configuration_is_refused_key_by_key(tiny, refused, finished, mode):
    flags = [*tiny, f"--workdir={finished}", *mode]
    changes = ["--config.seed=5", "--config.objective.alpha=0.5"]
    words = ["seed: 0 -> 5", "objective.alpha: 0.1 -> 0.5"]
    refused(words, *flags, *changes, watched=[finished])


def test_evaluating_with_more_rows_than_fit_is_refused(tiny, refused, finished):
    flags = [*tiny, f"--workdir={finished}", "--mode=evaluate"]
    words = ["answering questions", "config.evaluate.rows=1000000000"]
    refused(words, *flags, "--config.evaluate.rows=1000000000", watched=[finished])


def test_memory_is_asked_for_again_when_the_vocabulary_is_known(
    tiny, refused, monkeypatch, tmp_path
):
    asked, estimate = [], memory.training

    def counted(config, vocab_size=1):
        asked.append(vocab_size)
        return estimate(config, vocab_size if vocab_size == 1 else 10**12)

    monkeypatch.setattr(memory, "training", counted)
    refused(["on each device"], *tiny, f"--workdir={tmp_path}")
    assert asked == [1, 4 + len(">abcd")]


def test_a_damaged_config_json_is_named(refused, finished, tmp_path):
    for text in ("{", "[]", '{"name": "x"}', '{"name": "x", "config": 3}'):
        (tmp_path / "config.json").write_text(text)
        for mode in ("--resume", "--mode=evaluate"):
            refused([str(tmp_path / "config.json"), "damaged"], f"--workdir={tmp_path}", mode)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("abz>", ["'z'", "alphabet", ">abcd"]),
        ("abcabc", ["'abcabc' is too long", "at most 4"]),
        ("", ["--prompt"]),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused(refused, finished, prompt, words):
    flags = ["--mode=sample", f"--workdir={finished}", f"--prompt={prompt}"]
    refused(words, *flags, watched=[finished])


@pytest.mark.parametrize("mode", READING)
def test_a_missing_checkpoint_is_said(refused, finished, tmp_path, mode):
    shutil.copy(finished / "config.json", tmp_path)
    (tmp_path / "lock").touch()
    refused([f"no checkpoint in {tmp_path / 'checkpoints'}"], f"--workdir={tmp_path}", *mode)


@pytest.mark.parametrize("mode", [*READING, ["--resume"], ["--resume", "--dry_run"]])
def test_damaged_checkpoints_are_named(refused, finished, tmp_path, mode):
    folder = shutil.copytree(finished, tmp_path / "run")
    for file in (folder / "checkpoints").glob("*/state/**/d/*"):
        file.write_bytes(file.read_bytes()[:100])
    newest = folder / "checkpoints" / str(STEPS)
    refused([f"checkpoint {newest} is damaged"], f"--workdir={folder}", *mode)


def test_a_damaged_summary_is_named(refused, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    for text in ("{", "[]", "{}"):
        (folder / "summary.json").write_text(text)
        words = [str(folder / "summary.json"), "damaged"]
        refused(words, "--mode=evaluate", f"--workdir={folder}")


@pytest.mark.parametrize("line", ["{", '{"prompt": "a"}', "[1]"])
def test_a_damaged_line_of_a_jsonl_is_named(tiny, pairs, refused, tmp_path, line):
    path = tmp_path / "damaged.jsonl"
    path.write_text(pairs.read_text() + "\n" + line)
    flags = [*tiny, f"--config.data.path={path}", f"--workdir={tmp_path / 'new'}"]
    refused([f"{path}:65: "], *flags)


def test_an_unreadable_cache_is_named(refused, tmp_path):
    sizes = {"train": 3, "validation": 1, "test": 1}
    questions = {"module": "arithmetic__add_or_sub_in_base", "bases": (10,), "entropy": (2.0, 5.0)}
    cache = tmp_path / "cache"
    data = SimpleNamespace(**sizes, **questions, dir=str(cache), source="generator", seed=0)
    arithmetic.task(data)
    for file in cache.rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    flags = [f"--config.data.{key}={size}" for key, size in sizes.items()]
    flags += [CONFIG, f"--config.data.dir={cache}", f"--workdir={tmp_path / 'new'}"]
    refused([str(cache), "cannot be read", "delete this folder"], *flags)


def test_the_module_itself_ends_with_the_exit_code(tmp_path):
    argv = [sys.executable, "-m", "sequencematch.main", "--config=configs/arithmetic.py"]
    argv += ["--config.train.stepz=3", f"--workdir={tmp_path / 'new'}"]
    done = subprocess.run(
        argv, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    said = "sequencematch: config.train.stepz is no key of this configuration; "
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == said + "did you mean 'train.steps'?\n"
    assert not list(tmp_path.iterdir())
