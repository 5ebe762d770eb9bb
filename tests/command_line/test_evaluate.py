"""--mode=evaluate: a run is evaluated again."""

import json
import shutil

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


def test_damaged_summary_is_refused(assert_refused, finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    without_seconds = json.dumps(summary | {"seconds": {"train": None}})
    for text in ("{", "[]", "{}", without_seconds):
        (folder / "summary.json").write_text(text)
        words = [str(folder / "summary.json"), "damaged"]
        assert_refused(words, "--mode=evaluate", f"--workdir={folder}")
