"""config.init=run:DIR starts from the parameters of another run, and from nothing else of it."""

import jax
import numpy as np

from sequencematch.cli import resume
from tests.command_line.command import read_json, records, run_command


def test_starts_from_the_parameters_and_counts_anew(tiny_flags, finished_run, tmp_path, capfd):
    folder = tmp_path / "run"
    more = [f"--config.init=run:{finished_run}", "--config.train.steps=6", "--config.seed=9"]
    assert run_command(*tiny_flags, *more, f"--workdir={folder}") == 0, capfd.readouterr().err
    first = records(folder / "metrics.jsonl")[0]
    assert first["step"] == 1 and read_json(folder / "summary.json")["steps"] == 6
    # The optimiser has warmed up from 0 again.
    assert first["learning_rate"] == 0
    parts, state = resume.open_run(finished_run)
    parts.config.init = f"run:{finished_run}"
    jax.tree.map(np.testing.assert_array_equal, resume.initial_parameters(parts), state.params)


def test_another_tokenizer_is_refused(tiny_flags, finished_run, assert_refused, tmp_path):
    flags = [f"--config.init=run:{finished_run}", "--config.edits=('<reset>',)"]
    words = ["config.init=", "another tokenizer"]
    assert_refused(words, *tiny_flags, *flags, f"--workdir={tmp_path / 'run'}")


def test_another_network_is_refused(tiny_flags, finished_run, assert_refused, tmp_path):
    flags = [f"--config.init=run:{finished_run}", "--config.model.d_ff=32"]
    words = ["config.init=", "other sizes", "'d_ff': 16"]
    assert_refused(words, *tiny_flags, *flags, f"--workdir={tmp_path / 'run'}")


def test_no_run_is_refused(tiny_flags, assert_refused, tmp_path):
    flags = [f"--config.init=run:{tmp_path / 'none'}", f"--workdir={tmp_path / 'run'}"]
    assert_refused(["none"], *tiny_flags, *flags)
    assert_refused(["config.init=", "run:DIR"], *tiny_flags, "--config.init=elsewhere")
