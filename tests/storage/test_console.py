"""Failures to print are no failures of the run."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "statement", ["print('x' * 10_000)", "print('x')", "Console().print('x' * 10_000)"]
)
@pytest.mark.parametrize("full", [False, True])
def test_a_closed_pipe_and_a_full_disk_are_ignored(statement, full):
    source = f"""
from rich.console import Console
import sys
from sequencematch.storage.console import ignore_write_failures
with ignore_write_failures(sys.stdout):
    {statement}
"""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", source]
    env = os.environ | {"PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as disk:
        out = disk if full else writer
        done = subprocess.run(command, env=env, stdout=out, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
