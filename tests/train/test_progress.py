"""The progress line."""

import os
import sys

from sequencematch.storage import console
from sequencematch.train.progress import ProgressLine


def test_a_run_continues_when_its_output_is_not_read(monkeypatch):
    """As with `| head`: on a broken pipe, rich would end the process."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", closed)
        console.to_stderr("three words more")
        patch.setattr(sys, "stdout", closed)
        with ProgressLine(2, 0, 100):
            for line in ("one", "two"):
                console.to_stdout(line)
