"""Runs that are interrupted, or run out of memory, disk space or finite steps, and then resume."""

import contextlib
import resource
import shutil
import signal

import jax
import numpy as np
import pytest

from sequencematch import main as main_module
from sequencematch.cli import figures, training
from sequencematch.train.stop_requests import Interrupted
from tests.command_line.command import SAVE_EVERY, assert_same_run, event_at_step, run_command
from tests.train.runs import UncompiledStep


def test_interrupted_run_saves_says_how_to_continue_and_resumes(
    tiny_flags, finished_run, tmp_path, capfd
):
    folder = tmp_path / "run"
    with event_at_step(SAVE_EVERY, lambda: signal.raise_signal(signal.SIGTERM)):
        assert run_command(*tiny_flags, f"--workdir={folder}") == 75
    saving, advice = capfd.readouterr().err.splitlines()
    assert saving == "sequencematch: SIGTERM: saving, then leaving"
    assert advice == "sequencematch: interrupted by SIGTERM: continue with --resume"
    assert not (folder / "summary.json").exists()
    assert [p.name for p in (folder / "checkpoints").iterdir() if p.name == str(SAVE_EVERY + 1)]
    assert run_command(f"--workdir={folder}", "--resume") == 0
    assert_same_run(folder, finished_run)


@pytest.mark.stress
@pytest.mark.parametrize("place", ["validation_figures", "build", "evaluate_test_set"])
def test_preparing_validating_and_evaluating_can_be_interrupted(
    tiny_flags, finished_run, tmp_path, place, monkeypatch, capfd
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        module = main_module if place == "build" else figures
        patch.setattr(module, place, lambda *_: signal.raise_signal(signal.SIGINT))
        assert run_command(*tiny_flags, f"--workdir={folder}") == 75
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert folder.exists() == (place != "build")
    assert run_command(*tiny_flags, f"--workdir={folder}", "--resume") == 0
    assert_same_run(folder, finished_run)


def test_stop_request_lost_in_a_finaliser_is_found_between_answers(
    finished_run, tmp_path, monkeypatch
):
    """Python drops exceptions raised in finalisers, so long work also checks for requests itself."""
    folder, make = shutil.copytree(finished_run, tmp_path / "run"), figures.make_scorer
    (folder / "summary.json").unlink()

    def lose_request(parts):
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        return make(parts)

    monkeypatch.setattr(figures, "make_scorer", lose_request)
    assert run_command(f"--workdir={folder}", "--mode=evaluate") == 75
    assert not (folder / "summary.json").exists()


@pytest.mark.stress
@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x")]
)
def test_out_of_memory_stops_the_run_with_one_line(
    tiny_flags, finished_run, tmp_path, monkeypatch, capfd, error
):
    def run_out_of_memory(*_):
        raise error

    folder = tmp_path / "run"
    with event_at_step(SAVE_EVERY + 1, run_out_of_memory):
        assert run_command(*tiny_flags, f"--workdir={folder}") == 3
    line = capfd.readouterr().err
    assert line.startswith("sequencematch: stopped: out of memory; ")
    assert "continue with --resume" in line and len(line.splitlines()) == 1
    assert run_command(f"--workdir={folder}", "--resume") == 0
    assert_same_run(folder, finished_run)


@pytest.mark.stress
def test_nonfinite_steps_stop_the_run_with_one_line(
    tiny_flags, finished_run, tmp_path, monkeypatch, capfd
):
    def make_nan_plan(parts):
        plan = make_plan(parts)
        step = plan.phases[0].step

        def nan_step(state, batch):
            params = jax.tree.map(lambda x: x * np.nan, state.params)
            return step(state._replace(params=params) if int(state.step) > 0 else state, batch)

        phases = [plan.phases[0]._replace(step=UncompiledStep(nan_step)), *plan.phases[1:]]
        return plan._replace(phases=phases, skip_nonfinite=0)

    make_plan = training.make_plan
    monkeypatch.setattr(training, "make_plan", make_nan_plan)
    assert run_command(*tiny_flags, f"--workdir={tmp_path / 'run'}") == 3
    error = capfd.readouterr().err
    assert error.startswith(
        "sequencematch: step 2: bc, loss, gradient_norm, update_norm not finite"
    )
    assert len(error.splitlines()) == 1
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert run_command(f"--workdir={tmp_path / 'run'}", "--resume") == 3


@pytest.mark.stress
def test_full_disk_stops_the_run_with_one_line(tiny_flags, finished_run, tmp_path, capfd):
    folder, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk():  # a step's metrics still fit, but not a checkpoint
        most = (folder / "metrics.jsonl").stat().st_size + 3_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))

    try:
        with event_at_step(2 * SAVE_EVERY - 1, fill_disk):
            assert run_command(*tiny_flags, f"--workdir={folder}") == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capfd.readouterr().err
    assert error.startswith("sequencematch: stopped: a checkpoint could not be written")
    assert "File too large" in error
    assert "continue with --resume" in error and len(error.splitlines()) == 1
    assert run_command(f"--workdir={folder}", "--resume") == 0
    assert_same_run(folder, finished_run)
