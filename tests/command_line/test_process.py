"""The process itself: its exit code, and streams that are closed, full or not read."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.command_line.command import READING_MODES, ROOT, run_command


@pytest.mark.stress
def test_process_ends_with_the_exit_code(tmp_path):
    argv = [sys.executable, "-m", "sequencematch.main", "--config=configs/arithmetic.py"]
    argv += ["--config.train.stepz=3", f"--workdir={tmp_path / 'new'}"]
    done = subprocess.run(
        argv, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    line = "sequencematch: config.train.stepz is not a key of this configuration; "
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == line + "did you mean 'train.steps'?\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.stress
@pytest.mark.parametrize("out", ["2>&-", "<&- >&- 2>&-"])
def test_errors_are_not_printed_on_another_stream_if_stderr_is_closed(out):
    command = [shlex.quote(sys.executable), "-m", "sequencematch.main", out]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(" ".join(command), shell=True, cwd=ROOT, env=env, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@pytest.mark.stress
@pytest.mark.parametrize("out", [">/dev/full", ">&-"])
def test_exit_code_is_zero_even_if_stdout_is_full_or_closed(out):
    command = [shlex.quote(sys.executable), "-m", "sequencematch.main", "--help", out]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        " ".join(command), shell=True, cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "mode", [*READING_MODES, ["--resume"], ["--resume", "--dry_run"], ["--help"]], ids=" ".join
)
def test_closed_pipe_on_stdout_is_no_failure(finished_run, tmp_path, monkeypatch, mode):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert run_command(f"--workdir={folder}", *mode) == 0
