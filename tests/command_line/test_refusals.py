"""Runs and data that cannot be used are refused: exit code 2, one line, and no file changes."""

import os
import shutil
from types import SimpleNamespace

import pytest

from sequencematch.cli import workdir
from sequencematch.data import arithmetic
from sequencematch.setup import memory
from tests.command_line.command import CONFIG, READING_MODES, run_command
from tests.train.runs import STEPS


def test_folder_in_use_is_left_alone(tiny_flags, assert_refused, finished_run, tmp_path):
    for dry in ([], ["--dry_run"]):
        flags = [*tiny_flags, *dry, f"--workdir={finished_run}"]
        assert_refused(["not empty", "--resume"], *flags, unchanged=[finished_run])
    (tmp_path / "notes.txt").write_text("mine")
    assert_refused(["not empty"], *tiny_flags, f"--workdir={tmp_path}")
    assert_refused(["holds no run"], *tiny_flags, f"--workdir={tmp_path}", "--resume")
    assert_refused(["notes.txt"], *tiny_flags, f"--workdir={tmp_path / 'notes.txt'}")
    assert_refused(["notes.txt"], *tiny_flags, f"--workdir={tmp_path / 'notes.txt' / 'run'}")


def test_folder_is_locked_while_a_run_works_in_it(assert_refused, finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    with workdir.lock(folder):
        for mode in (["--resume"], ["--mode=evaluate"], ["--resume", "--dry_run"]):
            assert_refused(
                [f"{folder} is in use by process {os.getpid()}"], f"--workdir={folder}", *mode
            )
    assert run_command(f"--workdir={folder}", "--mode=evaluate") == 0


@pytest.mark.parametrize("mode", [["--resume"], ["--mode=evaluate"], ["--resume", "--dry_run"]])
def test_another_configuration_is_refused_with_the_keys_that_differ(
    tiny_flags, assert_refused, finished_run, mode
):
    flags = [*tiny_flags, f"--workdir={finished_run}", *mode]
    changes = ["--config.seed=5", "--config.objective.alpha=0.5"]
    words = ["seed: 0 -> 5", "objective.alpha: 0.1 -> 0.5"]
    assert_refused(words, *flags, *changes, unchanged=[finished_run])


def test_memory_is_checked_again_once_the_vocabulary_is_known(
    tiny_flags, assert_refused, monkeypatch, tmp_path
):
    sizes, estimate = [], memory.estimate_training

    def estimate_much(config, vocab_size=1, examples=0):
        sizes.append(vocab_size)
        return estimate(config, vocab_size if vocab_size == 1 else 10**12)

    monkeypatch.setattr(memory, "estimate_training", estimate_much)
    assert_refused(["on each device"], *tiny_flags, f"--workdir={tmp_path}")
    assert sizes == [1, 4 + len(">abcd")]


def test_damaged_config_json_is_refused(assert_refused, finished_run, tmp_path):
    for text in ("{", "[]", '{"name": "x"}', '{"name": "x", "config": 3}'):
        (tmp_path / "config.json").write_text(text)
        for mode in ("--resume", "--mode=evaluate"):
            assert_refused(
                [str(tmp_path / "config.json"), "damaged"], f"--workdir={tmp_path}", mode
            )


@pytest.mark.parametrize("mode", READING_MODES)
@pytest.mark.parametrize("name", ["task.json", "questions.jsonl"])
def test_damaged_task_of_a_run_is_refused(assert_refused, finished_run, tmp_path, mode, name):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / name).write_text("{")
    assert_refused([str(folder / name)], f"--workdir={folder}", *mode)


@pytest.mark.parametrize("mode", READING_MODES)
def test_run_without_a_checkpoint_is_refused(assert_refused, finished_run, tmp_path, mode):
    for name in ("config.json", "task.json", "questions.jsonl", "lock"):
        shutil.copy(finished_run / name, tmp_path)
    assert_refused([f"no checkpoint in {tmp_path / 'checkpoints'}"], f"--workdir={tmp_path}", *mode)


@pytest.mark.parametrize("mode", [*READING_MODES, ["--resume"], ["--resume", "--dry_run"]])
def test_damaged_checkpoints_are_refused(assert_refused, finished_run, tmp_path, mode):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    for file in (folder / "checkpoints").glob("*/state/**/d/*"):
        file.write_bytes(file.read_bytes()[:100])
    newest = folder / "checkpoints" / str(STEPS)
    assert_refused([f"checkpoint {newest} is damaged"], f"--workdir={folder}", *mode)


@pytest.mark.parametrize("line", ["{", '{"prompt": "a"}', "[1]"])
def test_damaged_line_of_a_jsonl_is_reported_with_its_number(
    tiny_flags, pairs_file, assert_refused, tmp_path, line
):
    path = tmp_path / "damaged.jsonl"
    path.write_text(pairs_file.read_text() + "\n" + line)
    flags = [*tiny_flags, f"--config.data.path={path}", f"--workdir={tmp_path / 'new'}"]
    assert_refused([f"{path}:65: "], *flags)


def test_unreadable_cache_is_refused(assert_refused, tmp_path):
    sizes = {"train": 3, "validation": 1, "test": 1}
    questions = {"module": "arithmetic__add_or_sub_in_base", "bases": (10,), "entropy": (2.0, 5.0)}
    cache = tmp_path / "cache"
    data = SimpleNamespace(**sizes, **questions, dir=str(cache), source="generator", seed=0)
    data.split = "twins"
    arithmetic.task(data)
    for file in cache.rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    flags = [f"--config.data.{key}={size}" for key, size in sizes.items()]
    flags += [CONFIG, f"--config.data.dir={cache}", f"--workdir={tmp_path / 'new'}"]
    assert_refused([str(cache), "cannot be read", "move this folder away"], *flags)
