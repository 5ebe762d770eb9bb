"""Flags and configuration files: wrong ones are refused in one line, with a suggestion."""

import shutil
import subprocess
import sys

import pytest

from sequencematch.cli.flags import check_workdir_name, parse_flags
from sequencematch.setup import machine
from tests.command_line.command import ROOT, TINY, run_command

BAD_FLAGS = [
    (["--config.train.stepz=3"], ["config.train.stepz", "did you mean 'train.steps'"]),
    (["--config.objektive.alpha=3"], ["config.objektive.alpha", "'objective.alpha'"]),
    (["--config.train=3"], ["config.train is not a key"]),
    (["--config.method=sequencemach"], ["config.method='sequencemach'", "did you mean 'seq"]),
    (["--config.objective.gamma=1.5"], ["config.objective.gamma=1.5", "(0, 1]"]),
    (["--config.objective.gamma=0"], ["config.objective.gamma=0.0", "(0, 1]"]),
    (["--config.objective.alpha=0"], ["config.objective.alpha=0.0", "> 0"]),
    (["--config.objective.alpha=-1"], ["config.objective.alpha=-1.0", "> 0"]),
    (["--config.noise.eta=1"], ["config.noise.eta=1.0", "[0, 1)"]),
    (["--config.noise.eta=-.1"], ["config.noise.eta=-0.1", "[0, 1)"]),
    (["--config.objective.policy_weight=1.5"], ["objective.policy_weight=1.5", "[0, 1]"]),
    (["--config.model.heads=3"], ["model.d_model=16", "model.heads=3"]),
    (["--config.model.kv_heads=3"], ["model.heads=4", "model.kv_heads=3"]),
    (["--config.mesh.data=3"], ["train.batch_size=8", "mesh.data=3"]),
    (["--config.mesh.data=8", "--config.mesh.model=2"], ["needs 16 devices, but jax finds 8"]),
    (["--config.train.steps=abc"], ["--config.train.steps=abc"]),
    (["--config.train.steps=1.5"], ["--config.train.steps=1.5"]),
    (["--config.noise.eta=much"], ["--config.noise.eta=much"]),
    (["--config.data.bases=abc"], ["config.data.bases", "abc", "2..16"]),
    (["--config.train.steps"], ["--config.train.steps"]),
    (["--config.prompt_slots=4"], ["prompt_slots=4", "needs 5"]),
    (["--config.max_actions=2"], ["config.max_actions=2", "words.jsonl:", "of train", "needs 4"]),
    (["--config.evaluate.max_actions=5"], ["config.evaluate.max_actions=5", "needs 6, 2 of them"]),
    (["--config.noise.max_cut=.01"], ["config.max_actions=6", "noise.eta=0.3", "would do"]),
    (["--config.data.fields=question"], ['"prompt" (text)', "data.fields=prompt reads it"]),
    (["--config.data.fields=chat"], ["config.data.fields='chat'", "question"]),
    (["--config.data.test_path=nowhere"], ["data.test_path='nowhere' is no file"]),
    (["--config.task=jsonlines"], ["task='jsonlines'", "did you mean 'jsonl'"]),
    (["--config.task=nowhere:task"], ["nowhere:task"]),
    (["--config.data.path=nowhere.jsonl"], ["data.path='nowhere.jsonl'"]),
    (["--config.data.test=60"], ["data.test=60"]),
    (["--config.optimizer.lr=3"], ["config.optimizer.lr", "'optimizer.learning_rate'"]),
    (["--workdir="], ["--workdir= is empty", "name a folder"]),
    (["--mode=evaluate", "--data="], ["--data= is empty"]),
    (["--mode=sample", "--prompts="], ["--prompts= is empty"]),
    (["--mode=sample", "--prompt=a", "--out="], ["--out= is empty"]),
    (["--wrokdir=x"], ["wrokdir", "workdir"]),
    (["--mode=trian"], ["--mode=trian", "train|evaluate|sample"]),
    (["stray"], ["'stray' is not a flag"]),
    (["--config.train.frozen=embeding"], ["config.train.frozen='embeding'", "embedding/embedding"]),
    (["--config.task=countdown", "--config.data.train=0"], ["'countdown'", "config.data.train"]),
    (["--" + "z" * 5000], ["... is not a flag"]),
    (["--mode=sample"], ["--prompt"]),
    (["--mode=evaluate"], ["holds no run"]),
    (["--mode=sample", "--prompt=abc>"], ["holds no run"]),
    (["--resume", "--mode=sample", "--prompt=abc>"], ["holds no run"]),  # as launch/ asks
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


@pytest.mark.parametrize("more", ["--workdri=x", "stray", "--config=arithmetic"])
def test_what_does_not_go_with_scoring_is_refused(assert_refused, more):
    flags = ["--mode=score", "--files=nowhere.jsonl", "--metrics=length"]
    words = [more.lstrip("-").partition("=arith")[0], "does not go with --mode=score"]
    assert_refused(words, *flags, more)


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS)
def test_bad_flag_is_refused(tiny_flags, tmp_path, assert_refused, monkeypatch, flags, words):
    monkeypatch.setattr(machine, "free_bytes", lambda: 1 << 36)  # the same on any machine
    assert_refused(words, *tiny_flags, f"--workdir={tmp_path / 'new'}", *flags)


def test_wrong_edits_are_refused(tiny_flags, assert_refused, tmp_path):
    flags = [*tiny_flags, f"--workdir={tmp_path / 'new'}"]
    assert_refused(
        ["config.edits=('<rest>',)", "did you mean '<reset>'"], *flags, "--config.edits=<rest>"
    )
    assert_refused(["alone"], *flags, "--config.edits=('<reset>', '<bkspc>')")


def test_unprintable_characters_are_escaped(tiny_flags, assert_refused, tmp_path):
    assert_refused([r"\x1b[2J\u202e holds no run"], "--workdir=\x1b[2J\u202e")
    assert_refused([r"\udcff is not UTF-8"], *tiny_flags, f"--workdir={tmp_path}/\udcff")


def test_missing_configuration_file_gets_a_suggestion(assert_refused, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    new = f"--workdir={tmp_path / 'new'}"
    near = "did you mean 'configs/arithmetic.py'"
    assert_refused(
        ["configs/arithmetik.py: no such file", near], "--config=configs/arithmetik.py", new
    )
    assert_refused(
        ["confgis/arithmetic.py: no such file", near], "--config=confgis/arithmetic.py:bc", new
    )
    assert_refused(["no such file"], "--config=", new)
    assert_refused(["--config=/nowhere/zzzzzzzzz.q"], "--config=/nowhere/zzzzzzzzz.q", new)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", ["fails in line 1", "ZeroDivisionError", "division by zero"]),
        ("def get_config():\n    return defaultz()", ["in line 2", "NameError", "defaultz"]),
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
def test_configuration_file_that_fails_is_reported(assert_refused, tmp_path, source, words):
    (tmp_path / "broken.py").write_text(source)
    for flags in ([], ["--config.seed=1"]):
        config = f"--config={tmp_path / 'broken.py'}"
        name_in_message = [] if "missing" in words[0] else ["broken.py"]
        assert_refused([*name_in_message, *words], config, f"--workdir={tmp_path / 'new'}", *flags)


def test_configuration_or_run_must_be_given(assert_refused, tmp_path):
    assert_refused(["--config=arithmetic", "--workdir=DIR"])
    assert_refused(["--config.seed", "--config=FILE"], "--config.seed=3", f"--workdir={tmp_path}")
    assert_refused(["holds no run"], f"--workdir={tmp_path / 'new'}")


def test_flags_may_be_in_any_order(tiny_flags, finished_run, capsys):
    file, *overrides = tiny_flags
    flags = ["--config.seed", "7", *overrides, "--resume", f"--workdir={finished_run}", file]
    assert run_command(*flags) == 2
    assert "(seed: 0 -> 7)" in capsys.readouterr().err


def test_a_colon_in_the_path_of_a_configuration(tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    path = shutil.copy(ROOT / "configs" / "arithmetic.py", folder / "c.py")
    for given, method in ((f"{path}:bc", "bc"), (path, "sequencematch")):
        asked = parse_flags(["main.py", f"--config={given}"])
        assert (asked.name, asked.config.method) == ("c", method)


def test_a_configuration_may_be_named_anywhere_and_after_a_space():
    flags = ["--config.seed", "7", "--config", "arithmetic:bc", "--dry_run"]
    asked = parse_flags(["main.py", *flags])
    assert (asked.config.method, asked.config.seed, asked.flags.dry_run) == ("bc", 7, True)


def test_a_run_keeps_its_configuration_and_takes_overrides(finished_run):
    flags = [f"--workdir={finished_run}", "--config.edits=<reset>", "--config.data.path=/new"]
    asked = parse_flags(["main.py", *flags])
    assert (asked.name, asked.is_named) == ("arithmetic", False)
    assert (asked.config.edits, asked.config.data.path) == (("<reset>",), "/new")
    assert asked.config.train.steps == TINY["train.steps"]


@pytest.mark.exhaustive
@pytest.mark.stress
def test_help_is_there_without_docstrings():
    """As with `python -OO`, which drops them."""
    code = "from sequencematch.main import main; raise SystemExit(main(['main', '--help']))"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--mode=evaluate" in done.stdout and "--workdir" in done.stdout


def test_help_is_printed_on_stdout(capsys):
    assert run_command("--help") == 0
    printed = capsys.readouterr()
    assert "--mode" in printed.out and "--workdir" in printed.out and printed.err == ""


def test_a_tilde_is_the_home_in_the_work_directory_too(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_workdir_name("~/runs/x") == tmp_path / "runs" / "x"
