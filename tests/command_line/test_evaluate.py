"""--mode=evaluate: a run is evaluated again."""

import json
import shutil

import pytest

from sequencematch.setup import examples
from tests.command_line.command import (
    PREVIOUS_SAVE,
    SAVE_EVERY,
    TINY,
    contents,
    read_json,
    records,
    run_command,
)
from tests.train.runs import CLONING, STEPS


def test_evaluating_again_gives_the_same_summary_and_trains_nothing(finished_run, tmp_path, capsys):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "traces.jsonl").unlink()
    assert run_command("--mode=evaluate", f"--workdir={folder}") == 0
    before, after = read_json(finished_run / "summary.json"), read_json(folder / "summary.json")
    assert after.pop("seconds")["train"] == before.pop("seconds")["train"]
    assert after == before
    assert records(folder / "traces.jsonl") == records(finished_run / "traces.jsonl")
    assert (folder / "metrics.jsonl").read_text() == (finished_run / "metrics.jsonl").read_text()
    printed = capsys.readouterr().out
    assert f"of {TINY['data.test']} test questions right" in printed
    assert str(folder / "report.html") in printed


def test_evaluation_keys_may_differ_from_the_run(tiny_flags, finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    flags = [*tiny_flags, f"--workdir={folder}", "--mode=evaluate", "--config.evaluate.traces=3"]
    assert run_command(*flags) == 0
    assert len(records(folder / "traces.jsonl")) == 3 * 3
    assert read_json(folder / "config.json") == read_json(finished_run / "config.json")


@pytest.mark.stress
@pytest.mark.exhaustive
def test_unfinished_run_can_be_evaluated(crashed_run, tmp_path):
    folder = shutil.copytree(crashed_run, tmp_path / "run")
    assert run_command("--mode=evaluate", f"--workdir={folder}") == 0
    assert read_json(folder / "summary.json")["steps"] == SAVE_EVERY
    assert (folder / "report.html").is_file()


def test_summary_of_a_later_step_is_not_overwritten(finished_run, tmp_path, capfd):
    """With a damaged newest checkpoint, the one before is evaluated once the summary is removed."""
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "checkpoints" / str(STEPS) / "meta" / "metadata").unlink()
    before = contents(tmp_path)
    assert run_command(f"--workdir={folder}", "--mode=evaluate") == 2
    damage, why = capfd.readouterr().err.splitlines()
    assert "is damaged" in damage and f"{folder / 'summary.json'} is of step {STEPS}," in why
    assert (
        f"of step {PREVIOUS_SAVE}: continue with --resume" in why and contents(tmp_path) == before
    )
    (folder / "summary.json").unlink()
    assert run_command(f"--workdir={folder}", "--mode=evaluate") == 0
    assert (
        f"Evaluated after {PREVIOUS_SAVE} of {STEPS} steps" in (folder / "report.html").read_text()
    )
    summary = read_json(folder / "summary.json")
    slots = TINY["prompt_slots"] + TINY["max_actions"]
    assert summary["steps"] == PREVIOUS_SAVE
    assert summary["tokens"] == slots * 8 * (CLONING + 2 * (PREVIOUS_SAVE - CLONING))


def test_more_rows_than_fit_into_memory_are_refused(tiny_flags, assert_refused, finished_run):
    flags = [*tiny_flags, f"--workdir={finished_run}", "--mode=evaluate"]
    words = ["answering questions", "config.evaluate.rows=1000000000"]
    assert_refused(words, *flags, "--config.evaluate.rows=1000000000", unchanged=[finished_run])


@pytest.mark.stress
@pytest.mark.exhaustive
def test_damaged_summary_is_refused(assert_refused, finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    without_seconds = json.dumps(summary | {"seconds": {"train": None}})
    for text in ("{", "[]", "{}", without_seconds):
        (folder / "summary.json").write_text(text)
        words = [str(folder / "summary.json"), "damaged"]
        assert_refused(words, "--mode=evaluate", f"--workdir={folder}")


@pytest.fixture
def moved_run(finished_run, tmp_path, monkeypatch):
    """A copy of the finished run in another place, where its data cannot be loaded."""

    def fail(*_):
        pytest.fail("the data were loaded")

    monkeypatch.setattr(examples, "load_task", fail)
    return shutil.copytree(finished_run, tmp_path / "moved")


def test_a_run_is_evaluated_and_asked_without_its_data(moved_run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    before = read_json(moved_run / "summary.json")["test"]
    flags = [f"--workdir={moved_run.name}"]
    assert run_command(*flags, "--mode=evaluate") == 0
    assert read_json(moved_run / "summary.json")["test"] == before
    assert run_command(*flags, "--mode=sample", "--prompt=abc>") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("key", ["path", "test_path", "corpus"])
def test_a_run_that_keeps_its_questions_takes_no_other_data(assert_refused, finished_run, key):
    """Else the results would be those of its own questions, under the name of others."""
    flags = [f"--workdir={finished_run}", "--mode=evaluate", f"--config.data.{key}=/new.jsonl"]
    words = [f"config.data.{key}='/new.jsonl'", "the questions that it keeps", "--data=FILE"]
    assert_refused(words, *flags, unchanged=[finished_run])


@pytest.mark.stress
def test_a_run_of_an_older_version_loads_its_data_and_says_so(finished_run, tmp_path, capsys):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "task.json").unlink()
    assert run_command(f"--workdir={folder}", "--mode=sample", "--prompt=abc>") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder}" in line and "its data were loaded" in line


def test_other_questions_and_another_checkpoint_leave_the_summary_alone(
    moved_run, tmp_path, capsys
):
    """As many questions as the test set has, in the words of the test set: the same figures."""
    before = contents(moved_run)
    lines = (moved_run / "questions.jsonl").read_text().splitlines()
    data = tmp_path / "others.jsonl"
    data.write_text("\n".join(line for line in lines if '"split": "test"' in line))
    run = [f"--workdir={moved_run}", "--mode=evaluate"]
    assert run_command(*run, f"--data={data}") == 0
    assert run_command(*run, f"--checkpoint={PREVIOUS_SAVE}") == 0
    other, older = (
        read_json(moved_run / f"evaluation-{name}.json")
        for name in (f"others-{STEPS}", PREVIOUS_SAVE)
    )
    assert other["test"] == read_json(moved_run / "summary.json")["test"]
    assert (other["steps"], older["steps"]) == (STEPS, PREVIOUS_SAVE)
    assert other["test"] != older["test"] and len(older["traces"]) == len(other["traces"])
    after = contents(moved_run)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 2
    assert f"results: {moved_run / 'evaluation-'}" in capsys.readouterr().out


def test_the_best_checkpoint_is_the_one_with_the_best_validation(finished_run, tmp_path):
    """Here only the last step has both a validation and a checkpoint."""
    folder = shutil.copytree(finished_run, tmp_path / "run")
    assert run_command(f"--workdir={folder}", "--mode=evaluate", "--checkpoint=best") == 0
    assert read_json(folder / f"evaluation-{STEPS}.json")["steps"] == STEPS


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "xyz>", "completion": "a"}', ["question 0", "not in the alphabet"]),
        ('{"prompt": "abc>", "completion": "%s"}' % ("a" * 8), ["max_actions=8", "needs 9"]),
        ('{"question": "abc>", "answer": "a"}', [":1: expected", "data.fields=question reads it"]),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(
    assert_refused, finished_run, tmp_path, line, words
):
    path = tmp_path / "q.jsonl"
    path.write_text(line)
    flags = ["--mode=evaluate", f"--data={path}", f"--workdir={finished_run}"]
    assert_refused([str(path), *words], *flags, unchanged=[finished_run])


def test_a_checkpoint_that_is_not_there_is_refused(assert_refused, finished_run, tmp_path):
    flags = ["--mode=evaluate", f"--workdir={finished_run}"]
    assert_refused(
        ["no checkpoint of step 7", f"{PREVIOUS_SAVE}, {STEPS}"], *flags, "--checkpoint=7"
    )
    assert_refused(["must be newest, best, or a step"], *flags, "--checkpoint=last")
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "metrics.jsonl").unlink()
    flags = ["--mode=evaluate", f"--workdir={folder}", "--checkpoint=best"]
    assert_refused(["--checkpoint=best", "no checkpoint", "was validated"], *flags)
