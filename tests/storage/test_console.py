"""Failures to print are no failures of the run."""

import os
import subprocess
import sys

import pytest


@pytest.mark.stress
@pytest.mark.parametrize(
    "statement",
    ["print('x' * 10_000)", "print('x')", "Console().print('x' * 10_000)"],
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


@pytest.mark.stress
@pytest.mark.parametrize("full", [False, True])
def test_what_libraries_print_goes_through_the_same_guard(full):
    """A print that they flush, one that they do not, and one after the first failure."""
    source = """
import sys
from sequencematch.storage.console import open_streams
from tests.marks import stress
open_streams()
for file in (sys.stdout, sys.stderr):
    print("x" * 10_000, file=file, flush=True)
    print("x", file=file)
sys.exit(3)
"""
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as disk:
        out = disk if full else writer
        done = subprocess.run([sys.executable, "-c", source], stdout=out, stderr=out)
    os.close(writer)
    assert done.returncode == 3
