"""Refusals: exit code 2, one line, nothing written or overwritten."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sequencematch.data import arithmetic
from sequencematch.setup import machine, memory
from tests.command_line.command import CONFIG, READING, ROOT
from tests.train.runs import STEPS

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
    (["--config.max_actions=2"], ["config.max_actions=2", "of train", "needs 4"]),
    (["--config.evaluate.max_actions=3"], ["config.evaluate.max_actions=3", "needs 4"]),
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
def test_bad_flags_are_refused(tiny, tmp_path, refused, monkeypatch, flags, words):
    monkeypatch.setattr(machine, "free_bytes", lambda: 1 << 36)  # on any machine
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
    asked, estimate = [], memory.estimate_training

    def counted(config, vocab_size=1):
        asked.append(vocab_size)
        return estimate(config, vocab_size if vocab_size == 1 else 10**12)

    monkeypatch.setattr(memory, "estimate_training", counted)
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
    summary = json.loads((folder / "summary.json").read_text())
    timeless = json.dumps(summary | {"seconds": {"train": None}})
    for text in ("{", "[]", "{}", timeless):
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
    refused([str(cache), "cannot be read", "move this folder away"], *flags)


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


@pytest.mark.parametrize("out", ["2>&-", "<&- >&- 2>&-"])
def test_no_line_of_an_error_is_printed_where_it_does_not_belong(out):
    command = [shlex.quote(sys.executable), "-m", "sequencematch.main", out]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(" ".join(command), shell=True, cwd=ROOT, env=env, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@pytest.mark.parametrize("out", [">/dev/full", ">&-"])
def test_the_module_ends_as_ever_where_nothing_can_be_printed(out):
    command = [shlex.quote(sys.executable), "-m", "sequencematch.main", "--help", out]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        " ".join(command), shell=True, cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
