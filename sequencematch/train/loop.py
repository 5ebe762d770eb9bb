"""Algorithm 1 of SequenceMatch (arXiv 2306.05426) as a loop, and the recorder of what it does."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from sequencematch.storage import console
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.metrics_log import MetricsLog
from sequencematch.storage.processes import first_finds
from sequencematch.train import guard
from sequencematch.train.plan import Batches, Plan, compile_ahead
from sequencematch.train.profiling import WAITS, Profiler, Stopwatch, shares, speeds, time_between
from sequencematch.train.progress import ProgressLine
from sequencematch.train.state import TrainState
from sequencematch.train.statistics import Metrics
from sequencematch.train.stop_requests import Interrupted, StopRequests

# Computes the figures on the validation set; the first is the one that the run is judged by.
Evaluator = Callable[[TrainState], Mapping[str, float | None]]


def train(
    plan: Plan, state: TrainState, data: Batches, prompts: Batches, recorder: "Recorder"
) -> tuple[TrainState, float]:
    """Runs the plan from the state's step to its end (SequenceMatch, Algorithm 1).

    Args:
      plan: what to do at which step.
      state: an initial or a restored train state; its memory is reused, so it is unusable afterwards.
      data: data[i] is the batch of expert episodes of step i.
      prompts: prompts[i] is (tokens, start), the prompts that a refresh before step i completes.
      recorder: logs, validates, saves and stops the run.

    Returns:
      (last train state, seconds of all parts of the run).

    Raises:
      Interrupted: the run was asked to stop; its state is saved.
      Diverged: too many steps in a row were not finite.
      OSError: a checkpoint could not be written.
    """
    first = int(state.step)
    with recorder.session(first):
        try:
            with recorder.interruptible(), recorder.measure("compiling"):
                recorder.report_memory(compile_ahead(plan, state, data, prompts))
            if recorder.missed_validation(first):
                recorder.validate(state)
            for step in range(first, plan.steps):
                recorder.stop_if_asked()
                recorder.profile(step, state)
                # Sample completions from the current policy into the replay buffer.
                if plan.refreshes(step):
                    with recorder.measure("data"):
                        questions = plan.place(prompts[step])
                    state = recorder.time_sampling(plan.refresh, state, questions)
                # Behavioural cloning or matching: the phase decides. The batch is a function of the
                # step, so a resumed run reads the data that the uninterrupted one reads.
                with recorder.measure("data"):
                    batch = plan.place(data[step])
                state, metrics = plan.phase(step).step(state, batch)
                recorder.log(step + 1, metrics)
                # Save before validating: a validation that fails is repeated when the run resumes.
                if plan.is_due(step + 1, plan.save_every):
                    recorder.save(state)
                if plan.is_due(step + 1, plan.evaluate_every):
                    recorder.validate(state)
            recorder.profile(plan.steps, state)
            recorder.stop_if_asked()
        except Interrupted:
            recorder.save(state)
            raise
    return state, recorder.seconds()


class Recorder:
    """Logs, validates, saves and stops a run.

    Args:
      plan: the run.
      checkpoints: where states are saved.
      metrics_log: where metrics are written.
      stop_requests: requests to stop the run.
      evaluate: state -> figures on the validation set.
      facts: saved with each state.
      seconds: duration of earlier parts of the run.
      estimated_bytes: what a step was estimated to take on each device before it was compiled; 0 if
        it was not.
      best: (step, figure) of the best validation of earlier parts of the run, of those steps that are
        saved as well; None if there was none.
      keep_best: whether the checkpoint of the best validation is kept.
      spent: where the time of earlier parts of the run went, as of `Stopwatch.read`, and the step that
        they were measured "from".
      profiler: traces steps.
    """

    def __init__(
        self,
        plan: Plan,
        checkpoints: Checkpoints,
        metrics_log: MetricsLog,
        stop_requests: StopRequests,
        evaluate: Evaluator,
        *,
        facts: Mapping[str, Any] = {},
        seconds: float = 0.0,
        estimated_bytes: int = 0,
        best: tuple[int, float] | None = None,
        keep_best: bool = False,
        spent: Mapping[str, float] = {},
        profiler: Profiler | None = None,
    ):
        self.plan, self.checkpoints, self.metrics_log = plan, checkpoints, metrics_log
        self.stop_requests, self.evaluate, self.facts = stop_requests, evaluate, facts
        self.monitor = guard.Monitor(plan.skip_nonfinite, console.to_stdout)
        self.earlier_seconds, self.estimated_bytes = seconds, estimated_bytes
        self.best, self.keep_best = best, keep_best
        self.spent, self.profiler = spent, profiler
        # Name and value of what the run is judged by, at the last validation, for the progress line.
        self.judged: tuple[str, float] | None = None

    @contextlib.contextmanager
    def session(self, first: int) -> Iterator[None]:
        """A run from step `first`: requests to stop are deferred; at the end all saves are on disk."""
        self.began = time.perf_counter() - self.earlier_seconds
        self.watch, self.measured_from = Stopwatch(self.spent), int(self.spent.get("from", first))
        self.last_record = (first, self.watch.read())  # speed is measured from here
        tokens = [sum(self.plan.tokens(step)) for step in (first, self.plan.steps)]
        self.progress = ProgressLine(self.plan.steps, *tokens)
        with self.stop_requests.deferred(), self.progress:
            try:
                yield
            finally:
                if self.profiler:
                    self.profiler.close()
                # Saves run in the background. An error must not cut the last one short.
                with self.measure("checkpoints"):
                    self.checkpoints.wait()

    def report_memory(self, compiled: int) -> None:
        """Prints what a step takes by the compiler's account, beside the estimate."""
        if compiled:
            estimated = f"; estimated were {self.estimated_bytes / 2**20:,.0f}"
            console.to_stdout(
                f"a compiled step takes {compiled / 2**20:,.0f} MiB on each device"
                f"{estimated if self.estimated_bytes else ''}"
            )

    def measure(self, activity: str) -> contextlib.AbstractContextManager[None]:
        """A block whose time is that of an activity, as of `profiling.ACTIVITIES`."""
        return self.watch.measure(activity)

    def time_sampling(
        self, refresh: Callable, state: TrainState, questions: tuple[Any, ...]
    ) -> TrainState:
        """The state with new samples; its time is that of sampling alone."""
        jax.block_until_ready(state)  # or the rest of the step before would count
        with self.measure("sampling"):
            return jax.block_until_ready(refresh(state, *questions))

    def profile(self, step: int, state: TrainState) -> None:
        """Traces what is asked for; called before each step, and after the last."""
        if self.profiler:
            self.profiler.at(step, state)

    def interruptible(self) -> contextlib.AbstractContextManager[None]:
        """A block of long work that changes no state: a request to stop ends it at once."""
        return self.stop_requests.interruptible()

    def stop_if_asked(self) -> None:
        """Raises Interrupted if the run was asked to stop; all processes of it at the same step."""
        self.stop_requests.check()

    def log(self, done: int, metrics: Metrics) -> None:
        """Checks the metrics of step number `done`, and writes them if they are due.

        Raises:
          Diverged: too many steps in a row were not finite.
          OSError: a save in the background has failed.
        """
        self.monitor.observe(done, metrics)
        self.progress.advance(sum(self.plan.tokens(done)))
        # Only records that are due are fetched: a fetch waits for the device.
        if self.plan.is_due(done, self.plan.log_every):
            record = {"kind": "train", "step": done, "phase": self.plan.phase(done - 1).name}
            record |= {name: np.asarray(x).item() for name, x in jax.device_get(metrics).items()}
            record |= self._costs(done)
            self.metrics_log.write(record)
            self.progress.report(done, record, self.judged)
        self.checkpoints.check()

    def missed_validation(self, first: int) -> bool:
        """Whether a resumed run still owes the validation of the step that it resumes from."""
        due = first > 0 and self.plan.is_due(first, self.plan.evaluate_every)
        return due and ("validation", first) not in self.metrics_log

    def validate(self, state: TrainState) -> None:
        """Evaluates the state on the validation set; saves it first if that fails."""
        self.monitor.flush()
        try:
            with self.interruptible(), self.measure("validation"):
                figures = self.evaluate(state)
        except Exception:
            self.save(state)  # or the steps since the last save would be lost
            raise
        (name, figure), step = next(iter(figures.items())), int(state.step)
        # None where it is not defined, as the diversity of texts that are all empty.
        self.judged = (name, math.nan if figure is None else figure)
        # One for all, since they remove checkpoints together; figures may differ by rounding.
        if better := first_finds(self.is_best(step, self.judged[1])):
            self.best = (step, self.judged[1])
        best = {} if self.best is None else {"best_step": self.best[0]}
        record = {"kind": "validation", "step": step, **figures, **best}
        self.metrics_log.write(record | {"seconds": self.seconds()})
        self.last_record = (step, self.watch.read())  # validation does not count as slow training
        if better:  # known from here on, also if a kill comes before the former one is removed
            with self.measure("checkpoints"):
                self.checkpoints.keep_best(step)

    def is_best(self, step: int, figure: float) -> bool:
        """Whether the checkpoint of this step is to be kept as the best."""
        # Steps that an interruption saved do not compete: which is best must not depend on it.
        competes = self.keep_best and self.plan.is_due(step, self.plan.save_every)
        better = self.best is None or figure > self.best[1]
        return bool(competes and np.isfinite(figure) and better)

    def save(self, state: TrainState) -> None:
        """Saves the state, once the records that lead to it are on disk."""
        self.monitor.flush()
        # A resumed run does not write these records again.
        with self.measure("checkpoints"):
            self.metrics_log.sync()
            counts = {"seconds": self.seconds(), "records": self.metrics_log.count}
            counts["spent"] = {"from": float(self.measured_from), **self.watch.read()}
            self.checkpoints.save(state, {**self.facts, **counts})

    def seconds(self) -> float:
        """Duration of the run so far, earlier parts included."""
        return time.perf_counter() - self.began

    def speed(self, done: int) -> dict[str, Any]:
        """How fast the run was, up to a step, and the shares of its time."""
        spent = self.watch.read()
        found = self._speeds(self.measured_from, done, spent)
        return {"from_step": self.measured_from, **found, "shares": shares(spent)}

    def _costs(self, done: int) -> dict[str, int | float]:
        """Tokens so far, the speed and the waits since the last record, and the duration."""
        (before, earlier), now = self.last_record, self.watch.read()
        self.last_record = (done, now)
        spent = time_between(now, earlier)
        work = self.plan.work(done)
        return {
            "tokens": work.tokens,
            "sampled_tokens": work.sampled_tokens,
            **self._speeds(before, done, spent),
            **{f"time/{name}": share for name, share in shares(spent).items() if name in WAITS},
            "seconds": self.seconds(),
        }

    def _speeds(self, first: int, done: int, spent: Mapping[str, float]) -> dict[str, float]:
        work = self.plan.work(done).since(self.plan.work(first))
        devices = self.plan.batch_sharding.mesh.devices
        return speeds(work, spent, devices.size, devices.flat[0].device_kind)
