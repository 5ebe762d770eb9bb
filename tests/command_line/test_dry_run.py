"""--dry_run: the printed plan of a run that is not trained."""

import re
import shutil
from math import prod

from tests.command_line.command import SAVE_EVERY, TINY, contents, read_json, run_command
from tests.train.runs import CLONING, STEPS


def test_prints_what_the_run_will_do_and_writes_nothing(tiny_flags, finished_run, tmp_path, capsys):
    assert run_command(*tiny_flags, f"--workdir={tmp_path / 'new'}", "--dry_run") == 0
    printed, summary = capsys.readouterr(), read_json(finished_run / "summary.json")
    assert printed.err == "" and not list(tmp_path.iterdir())
    cells = [re.split(r"  +", line.strip()) for line in printed.out.splitlines()]
    slots = TINY["prompt_slots"] + TINY["max_actions"]
    cloned = slots * 8 * CLONING
    assert ["bc", "0", "to", f"{CLONING}", f"{cloned:,}", "0"] in cells
    matched, sampled = f"{summary['tokens'] - cloned:,}", f"{summary['sampled_tokens']:,}"
    assert ["sequencematch", f"{CLONING}", "to", f"{STEPS}", matched, sampled] in cells
    for words in ("40 train, 8 validation, 8 test", f"{summary['parameters']:,} parameters"):
        assert words in printed.out
    shapes = re.findall(r"^ +\S+/\S+ +([\dx]+) +[\dx]+ +float32", printed.out, re.MULTILINE)
    assert sum(prod(map(int, x.split("x"))) for x in shapes) == summary["parameters"]
    for part in (
        "the parameters",
        "the replay buffer",
        "gradients and activations",
        "at most",
    ):
        assert part in [cell for row in cells for cell in row]


def test_plan_starts_where_the_run_would_resume(crashed_run, tmp_path, capsys):
    folder = shutil.copytree(crashed_run, tmp_path / "run")
    before = contents(tmp_path)
    assert run_command(f"--workdir={folder}", "--resume", "--dry_run") == 0
    printed = capsys.readouterr().out
    assert contents(tmp_path) == before
    assert re.search(rf"^ *sequencematch +{SAVE_EVERY} +to +{STEPS} ", printed, re.MULTILINE)
    assert not re.search(r"^ *bc ", printed, re.MULTILINE)


def test_a_run_without_room_shows_its_plan_before_it_is_refused(tiny_flags, tmp_path, capsys):
    huge = ["--config.train.batch_size=1000000000", "--dry_run"]
    assert run_command(*tiny_flags, *huge, f"--workdir={tmp_path / 'new'}") == 2
    printed = capsys.readouterr()
    assert "gradients and activations" in printed.out and "All checks passed" not in printed.out
    assert "config.train.batch_size=1000000000" in printed.err
    assert len(printed.err.splitlines()) == 1 and not list(tmp_path.iterdir())
