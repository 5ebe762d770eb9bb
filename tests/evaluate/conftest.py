import pathlib

import pytest

from sequencematch.evaluate import sections
from tests.evaluate.run_files import SUMMARY, trace, train_line, validation_line, write_run


@pytest.fixture
def finished_run(tmp_path: pathlib.Path) -> pathlib.Path:
    """The directory of a finished SequenceMatch run, as the training loop leaves it."""
    metrics = [train_line(step) for step in range(25, 3001, 25)]
    metrics += [validation_line(step) for step in range(250, 3001, 250)]
    traces = [trace(decode, i) for decode in sections.DECODES for i in range(16)]
    return write_run(tmp_path / "arithmetic-sequencematch-0", SUMMARY, metrics, traces)
