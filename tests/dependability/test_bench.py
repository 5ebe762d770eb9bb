"""A job that handles a signal wrongly is found out."""

import signal

import pytest

from tests.dependability import watched
from tests.dependability.bench import Bench
from tests.dependability.crash_test import JOB


def test_a_job_asked_to_stop_must_save_unless_it_has_no_handler_yet(tmp_path):
    stopped_bench, killed_bench = (
        Bench(tmp_path, JOB, 1, number) for number in (signal.SIGTERM, signal.SIGKILL)
    )
    for moment in ("step", "save", "results"):
        assert stopped_bench.exit_codes(moment, done=False) == {75}
    for moment, done in (("start", False), ("start", True), ("results", True), ("end", True)):
        assert stopped_bench.exit_codes(moment, done) == {75, -signal.SIGTERM}
    for moment, done in (("start", False), ("step", False), ("end", True)):
        assert killed_bench.exit_codes(moment, done) == {-signal.SIGKILL}
    assert stopped_bench.exit_codes(None, False) == killed_bench.exit_codes(None, True) == {0}
    for step in (0, 25, 40, 475, 500):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    stopped_bench.remove_extra_checkpoints(tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"25", "475", "500"}


class JobThatIgnoresSignals:
    """A child and its process; it continues as if it had not been asked to stop."""

    def __init__(self, stack):
        self.process, self._stack = self, stack

    def note(self):
        return watched.Note(self._stack)

    def poll(self):
        return None

    def send_signal(self, number):
        pass

    def wait(self, timeout):
        return 0

    def last_words(self):
        return "done"


def test_a_job_that_ignores_the_signal_fails_unless_it_was_about_to_end(tmp_path, monkeypatch):
    bench = Bench(tmp_path, JOB, 1, signal.SIGTERM)

    def run_session(*stack):
        monkeypatch.setattr(bench, "start", lambda run: JobThatIgnoresSignals(stack))
        return bench.run_session(tmp_path / "run", "anywhere", lambda *_: True)

    with pytest.raises(RuntimeError, match="done\nrun, step: exit code 0"):
        run_session("loop train x")
    with pytest.raises(RuntimeError, match="results: exit code 0"):
        run_session("results evaluate_and_report x")  # without results
    (tmp_path / "run").mkdir()

    def finish(number):
        (tmp_path / "run/summary.json").touch()

    monkeypatch.setattr(JobThatIgnoresSignals, "send_signal", lambda _, number: finish(number))
    assert run_session("results evaluate_and_report x").hit is None
    (tmp_path / "run/summary.json").unlink()
    with pytest.raises(RuntimeError, match="step: exit code 0"):
        run_session("loop train x")
