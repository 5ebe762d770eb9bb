"""What a run leaves, and what can be done with it."""

import os
import re
import shutil
import sys
from types import SimpleNamespace

import pytest

from sequencematch.cli import sampling, training
from sequencematch.core import mdp
from sequencematch.data.tokenizer import CharTokenizer
from tests.command_line.command import (
    LAST,
    READING,
    SAVED,
    TINY,
    command,
    contents,
    read,
    records,
)
from tests.train.runs import CLONING, LOOKS, STEPS


def test_a_run_leaves_its_configuration_metrics_summary_traces_and_report(finished):
    assert {path.name for path in finished.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "traces.jsonl",
        "report.html",
        "checkpoints",
        "tensorboard",
        "saved",
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
    monkeypatch.setattr(training.stream, "actions", lambda *_, **__: iter(actions))
    assert command("--mode=sample", f"--workdir={finished}", "--prompt=abc>") == 0
    assert capsys.readouterr().out == "abc> >a<bkspc>b<eos>\n>b\n"


def test_a_terminal_shows_deletions_struck_through():
    tokenizer = CharTokenizer("ab", ("<bkspc>", "<bkspc2>"))
    decisions = mdp.make(tokenizer.vocab_size, eos=2, pad=0, never=[1], edits=tokenizer.pops)
    run = SimpleNamespace(tokenizer=tokenizer, recipe=SimpleNamespace(mdp=decisions))
    text = sampling.strike_deleted(run, "?", [4, 5, 6, 5, 3, 4, 2])
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


@pytest.mark.parametrize(
    "mode", [*READING, ["--resume"], ["--resume", "--dry_run"], ["--help"]], ids=" ".join
)
def test_nobody_who_reads_is_no_failure(finished, tmp_path, monkeypatch, mode):
    folder = shutil.copytree(finished, tmp_path / "run")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert command(f"--workdir={folder}", *mode) == 0
