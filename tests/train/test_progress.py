"""The progress line."""

import math
import os
import sys

import pytest

from sequencematch.storage import console
from sequencematch.train.progress import ProgressLine


@pytest.mark.parametrize(
    ("judged", "shown"),
    [
        (("accuracy/greedy", 0.5), "accuracy 50.0%"),
        (("perplexity/greedy", 12.345), "perplexity 12.35"),
        (("diversity/greedy", math.nan), "diversity nan"),
    ],
)
def test_what_the_run_is_judged_by_is_shown(judged, shown, capsys):
    record = {"phase": "bc", "loss": 1.0, "bc": 1.0, "tokens_per_second": 5.0}
    record |= {"tokens": 5, "sampled_tokens": 5, "seconds": 1.0}
    with ProgressLine(2, 0, 100) as line:
        line.report(1, record, judged)
        line.report(1, record, None)
    first, second = capsys.readouterr().out.splitlines()
    assert shown in first and judged[0].split("/")[0] not in second


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
