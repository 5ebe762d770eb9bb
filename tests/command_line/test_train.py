"""--mode=train: a run from its flags to its files."""

import math

import pytest

from tests.command_line.command import PREVIOUS_SAVE, TINY, read_json, records, run_command
from tests.train.runs import CLONING, STEPS, VALIDATIONS


def test_training_writes_every_file_of_a_run(finished_run):
    assert {path.name for path in finished_run.iterdir()} == {
        "config.json",
        "task.json",
        "questions.jsonl",
        "metrics.jsonl",
        "summary.json",
        "traces.jsonl",
        "report.html",
        "checkpoints",
        "tensorboard",
        "saved",
        "lock",
    }
    assert {path.name for path in (finished_run / "checkpoints").iterdir()} == {
        str(PREVIOUS_SAVE),
        str(STEPS),
    }
    assert any("tfevents" in path.name for path in (finished_run / "tensorboard").iterdir())
    assert (finished_run / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    config, summary = (
        read_json(finished_run / "config.json"),
        read_json(finished_run / "summary.json"),
    )
    assert config["name"] == summary["name"] == "arithmetic"
    assert config["config"] == summary["config"]
    assert config["config"]["train"]["steps"] == summary["steps"] == STEPS


def test_metrics_have_every_step_and_validation_once(finished_run):
    found = records(finished_run / "metrics.jsonl")
    train = [r for r in found if r["kind"] == "train"]
    assert [r["step"] for r in train] == list(range(1, STEPS + 1))
    cloning = ["bc"] * CLONING
    assert [r["phase"] for r in train] == cloning + ["sequencematch"] * (STEPS - CLONING)
    validations = [r for r in found if r["kind"] == "validation"]
    assert [r["step"] for r in validations] == list(VALIDATIONS)
    assert all(r["accuracy/greedy_low"] <= r["accuracy/greedy"] for r in validations)


def test_summary_agrees_with_the_traces(finished_run):
    summary, traces = (
        read_json(finished_run / "summary.json"),
        records(finished_run / "traces.jsonl"),
    )
    slots = TINY["prompt_slots"] + TINY["max_actions"]
    assert summary["tokens"] == slots * 8 * (CLONING + 2 * (STEPS - CLONING))
    assert summary["sampled_tokens"] == slots * 8 * 7  # before steps 4, 7, ..., 22
    assert [*summary["test"]] == ["greedy", "sampled", "unedited"]
    for decode in summary["test"]:
        found = [trace for trace in traces if trace["decode"] == decode]
        assert summary["test"][decode]["n"] == len(found) == TINY["data.test"]
        assert summary["test"][decode]["right"] == sum(trace["right"] for trace in found)
        used = sum(trace["actions"].count("<bkspc>") for trace in found)
        assert summary["test"][decode]["edits"]["per_action"] == pytest.approx(
            used / sum(len(trace["actions"]) for trace in found)
        )
        assert used == 0 if decode == "unedited" else used > 0 or decode == "greedy"
        for budget, share in summary["test"][decode]["within"].items():
            in_time = [t["right"] and len(t["actions"]) <= int(budget) for t in found]
            assert share == sum(in_time) / len(found)
    lengths = {math.ceil(found["length"]) for found in summary["test"].values()}
    assert [*summary["test"]["greedy"]["within"]] == [str(n) for n in sorted(lengths)]


def test_summary_says_how_well_scores_tell_right_answers_from_wrong_ones(finished_run):
    test = read_json(finished_run / "summary.json")["test"]
    assert "auc" not in test["greedy"]
    areas = test["sampled"]["auc"]
    assert {"log_likelihood", "return"} < {*areas}
    assert all({*area} == {"pooled", "within"} for area in areas.values())
    found = [x for area in areas.values() for x in area.values() if x is not None]
    assert all(0 <= x <= 1 for x in found)  # none where every answer is wrong


@pytest.mark.stress
def test_reset_works_from_data_to_report(tiny_flags, tmp_path, capsys):
    """`<reset>` is trained on, used in answers, biased by edit_bias and shown in the report."""
    folder, name = tmp_path / "run", "--config.edits=<reset>"
    assert (
        run_command(*tiny_flags, name, f"--workdir={folder}", "--config.evaluate.edit_bias=3.0")
        == 0
    )
    traces = records(folder / "traces.jsonl")
    greedy = [trace["actions"] for trace in traces if trace["decode"] == "greedy"]
    assert any("<reset>" in actions for actions in greedy)
    for actions in greedy:  # no attempt begins as an earlier one did
        attempts = " ".join(actions).removesuffix("<reset>").split("<reset>")
        first = [attempt.split()[0] for attempt in attempts]  # none is empty
        assert len(set(first)) == len(first)
    for trace in traces:
        *before, after = "".join(trace["actions"]).replace("<eos>", "").split("<reset>")
        assert "<bkspc>" not in trace["actions"] and trace["text"] == after
        assert sum(trace["deleted"]) == sum(map(len, before))
    assert read_json(folder / "summary.json")["test"]["sampled"]["edits"]["answers"] > 0
    assert "↺" in (folder / "report.html").read_text()
    for bias in (-99.0, 99.0):
        flags = [*tiny_flags, name, f"--workdir={folder}", f"--config.evaluate.edit_bias={bias}"]
        capsys.readouterr()
        assert run_command(*flags, "--mode=sample", "--prompt=abc>") == 0
        assert ("<reset>" in capsys.readouterr().out) == (bias > 0)
