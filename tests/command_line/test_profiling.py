"""What a run says of its speed, and the traces that it is asked for."""

import json
import shutil

import pytest

from sequencematch.train.profiling import ACTIVITIES, CLOCK
from tests.command_line.command import SAVE_EVERY, assert_same_run, read_json, run_command
from tests.train.runs import STEPS


def test_speed_is_in_records_summary_and_report(finished_run):
    lines = [json.loads(x) for x in (finished_run / "metrics.jsonl").read_text().splitlines()]
    trained = [r for r in lines if r["kind"] == "train"]
    usual = {*CLOCK} - {"mfu", "sampled_tokens_per_second"}
    assert all(usual <= {*r} and r["flops_per_second"] > 0 for r in trained)
    sampled = [r["step"] for r in trained if "sampled_tokens_per_second" in r]
    assert sampled == [5, 8, 11, 14, 17, 20, 23]  # refreshes come before steps 4, 7, ...
    assert all(0 <= r[f"time/{name}"] <= 1 for r in trained for name in ("data", "sampling"))
    speed = read_json(finished_run / "summary.json")["speed"]
    assert speed["from_step"] == 0 and speed["sampled_tokens_per_second"] > 0
    assert {*speed["shares"]} == {"steps", *ACTIVITIES}
    assert sum(speed["shares"].values()) == pytest.approx(1)
    page = (finished_run / "report.html").read_text()
    assert "tokens/s" in page and "GFLOP/s" in page and " · sampling " in page


@pytest.mark.stress
@pytest.mark.exhaustive
def test_a_resumed_run_is_traced_and_its_speed_is_that_of_all_parts(
    crashed_run, finished_run, tmp_path, capsys, monkeypatch
):
    """The run is the same one all the same, and W&B has its records, too."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = shutil.copytree(crashed_run, tmp_path / "run")
    asked = [f"--profile={SAVE_EVERY}:{SAVE_EVERY + 2}", f"--memory_profile={SAVE_EVERY}"]
    command = [f"--workdir={folder}", "--resume", *asked, "--config.wandb=project"]
    assert run_command(*command) == 0
    printed = capsys.readouterr().out
    assert "no MFU is claimed, as the peak of 'cpu' is not known" in printed
    assert f"steps {SAVE_EVERY} to {SAVE_EVERY + 1} are traced in {folder / 'profile'}/" in printed
    assert [*folder.rglob("*.xplane.pb")] and (
        folder / f"profile/memory-{SAVE_EVERY}.prof"
    ).is_file()
    assert [*folder.glob("wandb/offline-run-*/*.wandb")]
    summary = read_json(folder / "summary.json")
    assert summary["speed"]["from_step"] == 0 and summary["config"].pop("wandb") == "project"
    (folder / "summary.json").write_text(json.dumps(summary | {"config": summary["config"]}))
    whole = read_json(finished_run / "summary.json")
    assert whole["config"].pop("wandb") == "" and summary["config"] == whole["config"]
    summary["config"]["wandb"] = ""
    (folder / "summary.json").write_text(json.dumps(summary))
    assert_same_run(folder, finished_run)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--profile=3", "must be FIRST:END"),
        (f"--profile=3:{STEPS + 1}", f"steps of a run of {STEPS}"),
        ("--memory_profile=-1", "must be a step of the run"),
        ("--config.wandb=a/b/c", "PROJECT or ENTITY/PROJECT"),
    ],
)
def test_what_cannot_be_traced_or_sent_is_refused(
    assert_refused, tiny_flags, tmp_path, flag, words
):
    assert_refused([words], *tiny_flags, f"--workdir={tmp_path / 'run'}", flag)
