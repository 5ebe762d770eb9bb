"""Algorithm 1 of SequenceMatch (arXiv 2306.05426) as a loop, and the recorder of what happens in it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from sequencematch.storage import console
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.metrics_log import MetricsLog
from sequencematch.train import guard
from sequencematch.train.plan import Batches, Plan, compile_ahead
from sequencematch.train.progress import ProgressLine
from sequencematch.train.state import TrainState
from sequencematch.train.statistics import Metrics
from sequencematch.train.stop_requests import Interrupted, StopRequests

Evaluator = Callable[[TrainState], Mapping[str, float]]


def train(
    plan: Plan, state: TrainState, data: Batches, prompts: Batches, recorder: "Recorder"
) -> tuple[TrainState, float]:
    """Runs the plan from the state's step to its end.

    Args:
      plan: what to do when.
      state: the first state, or a restored one.
      data: data[i] is the batch of episodes of step i.
      prompts: prompts[i], (tokens, start), is what the refresh before step i completes.
      recorder: logs, validates, saves and stops.

    Returns:
      (the last state, seconds in all).

    Raises:
      Interrupted: the run was asked to stop; the state is saved.
      Diverged: too many steps in a row were not finite.
      OSError: a checkpoint could not be written.
    """
    first = int(state.step)
    with recorder.session(first):
        try:
            with recorder.interruptible():
                compile_ahead(plan, state, data, prompts)
            if recorder.missed_validation(first):
                recorder.validate(state)
            for step in range(first, plan.steps):
                recorder.stop_if_asked(step)
                # Sample from the current policy into the replay buffer.
                if plan.refreshes(step):
                    state = plan.refresh(state, *jax.device_put(prompts[step], plan.batch_sharding))
                # Behavioural cloning or matching: the phase of the step decides.
                batch = jax.device_put(data[step], plan.batch_sharding)
                state, metrics = plan.phase(step).step(state, batch)
                recorder.log(step + 1, metrics)
                # Save first: a validation may fail, and is made up for when the run resumes.
                if plan.due(step + 1, plan.save_every):
                    recorder.save(state)
                if plan.due(step + 1, plan.evaluate_every):
                    recorder.validate(state)
            recorder.stop_if_asked(plan.steps)
        except Interrupted:
            recorder.save(state)
            raise
    return state, recorder.seconds()


class Recorder:
    """Logs, validates and saves a run, and stops it when asked.

    Args:
      plan: the run.
      checkpoints: where states are saved.
      metrics_log: where metrics are written.
      stop_requests: who may stop the run.
      evaluate: state -> figures on the validation set.
      facts: what is saved with each state.
      seconds: what earlier parts of the run have taken.
    """

    def __init__(
        self,
        plan: Plan,
        checkpoints: Checkpoints,
        metrics_log: MetricsLog,
        stop_requests: StopRequests,
        evaluate: Evaluator,
        facts: Mapping[str, Any] = {},
        seconds: float = 0.0,
    ):
        self.plan, self.checkpoints, self.metrics_log = plan, checkpoints, metrics_log
        self.stop_requests, self.evaluate, self.facts = stop_requests, evaluate, facts
        self.watch = guard.Watch(plan.skip_nonfinite, console.to_stdout)
        self.earlier_seconds = seconds
        self.accuracy: float | None = None  # of the last validation, for the progress line

    @contextlib.contextmanager
    def session(self, first: int) -> Iterator[None]:
        """A run from step `first`: requests to stop wait, and at its end every save is on disk."""
        self.began = time.perf_counter() - self.earlier_seconds
        self.last_line = (first, time.perf_counter())  # between two lines, speed is measured
        work = [sum(self.plan.tokens(step)) for step in (first, self.plan.steps)]
        self.progress = ProgressLine(self.plan.steps, *work)
        with self.stop_requests.deferred(), self.progress:
            try:
                yield
            finally:
                self.checkpoints.wait()

    def interruptible(self) -> contextlib.AbstractContextManager[None]:
        """Long work that changes no state: a request to stop ends it at once."""
        return self.stop_requests.interruptible()

    def stop_if_asked(self, step: int) -> None:
        """Raises Interrupted if the run was asked to stop before `step`."""
        self.stop_requests.check(step)

    def log(self, done: int, metrics: Metrics) -> None:
        """Takes note of step number `done`; writes its metrics if they are due.

        Raises:
          Diverged: too many steps in a row were not finite.
          OSError: a save in the background has failed.
        """
        self.watch.see(done, metrics)
        self.progress.advance(sum(self.plan.tokens(done)))
        if self.plan.due(done, self.plan.log_every):
            record = {"kind": "train", "step": done, "phase": self.plan.phase(done - 1).name}
            record |= {name: np.asarray(x).item() for name, x in jax.device_get(metrics).items()}
            record |= self._costs(done)
            self.metrics_log.write(record)
            self.progress.report(done, record, self.accuracy)
        self.checkpoints.check()

    def missed_validation(self, first: int) -> bool:
        """Whether the step from which the run goes on was due for a validation that it never had."""
        due = first > 0 and self.plan.due(first, self.plan.evaluate_every)
        return due and ("validation", first) not in self.metrics_log

    def validate(self, state: TrainState) -> None:
        """Evaluates the state on the validation set; saves it first if that fails."""
        self.watch.settle()
        try:
            with self.interruptible():
                figures = self.evaluate(state)
        except Exception:
            self.save(state)  # the steps that led here are not lost with it
            raise
        self.accuracy, step = figures["accuracy/greedy"], int(state.step)
        seconds = self.seconds()
        self.metrics_log.write({"kind": "validation", "step": step, **figures, "seconds": seconds})
        self.last_line = (step, time.perf_counter())

    def save(self, state: TrainState) -> None:
        """Saves the state, once the records that lead to it are on disk."""
        self.watch.settle()
        self.metrics_log.sync()
        counts = {"seconds": self.seconds(), "records": self.metrics_log.count}
        self.checkpoints.save(state, {**self.facts, **counts})

    def seconds(self) -> float:
        """What the run has taken, earlier parts included."""
        return time.perf_counter() - self.began

    def _costs(self, step: int) -> dict[str, int | float]:
        """Tokens so far, the speed since the last line, and the time."""
        (trained, sampled), (before, _) = (
            self.plan.tokens(step),
            self.plan.tokens(self.last_line[0]),
        )
        elapsed = max(time.perf_counter() - self.last_line[1], 1e-9)
        self.last_line = (step, time.perf_counter())
        return {
            "tokens": trained,
            "sampled_tokens": sampled,
            "tokens_per_second": (trained - before) / elapsed,
            "seconds": self.seconds(),
        }
