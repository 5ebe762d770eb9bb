"""Algorithm 1 as a loop: steps of behavioural cloning, then of matching, with samples in between."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from sequencematch import files
from sequencematch.train import guard
from sequencematch.train import mesh as meshes
from sequencematch.train import step as steps
from sequencematch.train.checkpoint import Checkpoints
from sequencematch.train.interrupt import Interrupted, Interruption
from sequencematch.train.log import MetricsLog, ProgressLine
from sequencematch.train.metrics import Metrics
from sequencematch.train.state import Recipe, TrainState

Evaluator = Callable[[TrainState], Mapping[str, float]]


@runtime_checkable
class Batches(Protocol):
    """Batch i by `[i]`, at any i: grain's data sets have it, and lists."""

    def __getitem__(self, index: int, /) -> Any: ...


class Phase(NamedTuple):
    """A stretch of training with one compiled step.

    Attributes:
      name: shown in metrics.
      step: (state, batch) -> (state, metrics), jitted.
      until: step at which the phase ends.
      samples: whether the replay buffer is refreshed in it.
      passes: trajectories that each step takes through the network.
    """

    name: str
    step: Callable
    until: int
    samples: bool
    passes: int


class Plan(NamedTuple):
    """A run, laid out before it starts.

    Attributes:
      phases: in order.
      refresh: (state, prompts, start) -> state with new samples, jitted.
      slots: T, for counting tokens.
      refresh_every, refresh_rows: steps between refreshes, episodes sampled in each.
      log_every, evaluate_every, save_every: in steps.
      skip_nonfinite: steps in a row that may be skipped for what is not finite.
      batch_sharding: where batches go.
    """

    phases: Sequence[Phase]
    refresh: Callable
    slots: int
    refresh_every: int
    refresh_rows: int
    log_every: int
    evaluate_every: int
    save_every: int
    skip_nonfinite: int
    batch_sharding: jax.sharding.NamedSharding

    @property
    def steps(self) -> int:
        """Length of the run."""
        return self.phases[-1].until

    def phase(self, step: int) -> Phase:
        """The phase that `step` belongs to."""
        return next(phase for phase in self.phases if step < phase.until)

    def refreshes(self, step: int) -> bool:
        """Whether samples are drawn before `step`: at the start of a sampling phase, then regularly."""
        phase, begin = next((p, begin) for p, begin in self.spans() if step < p.until)
        return phase.samples and (step - begin) % self.refresh_every == 0

    def due(self, step: int, every: int) -> bool:
        """Whether what happens every so many steps happens after `step` steps; at the end always."""
        return step % every == 0 or step == self.steps

    def spans(self) -> Iterator[tuple[Phase, int]]:
        """Every phase, and the step at which it begins."""
        begin = 0
        for phase in self.phases:
            yield phase, begin
            begin = phase.until

    def tokens(self, step: int) -> tuple[int, int]:
        """Slots taken through the network after `step` steps: in training, and in sampling."""
        trained = sampled = 0
        for phase, begin in self.spans():
            taken = max(min(step, phase.until) - begin, 0)
            trained += taken * phase.passes
            sampled += phase.samples * -(-taken // self.refresh_every) * self.refresh_rows
        return trained * self.slots, sampled * self.slots


def compile_steps(
    recipe: Recipe, mesh: Mesh, shardings: TrainState
) -> tuple[dict[str, Callable], Callable]:
    """Every step by its name, and the refresh, jitted with the state's shardings held.

    What a run does not call is never compiled.
    """
    rows, everywhere = meshes.batch_sharding(mesh), meshes.replicated(mesh)

    def jit(step: Callable) -> Callable:
        return jax.jit(
            partial(step, recipe),
            in_shardings=(shardings, rows),
            out_shardings=(shardings, everywhere),
            donate_argnums=0,
        )

    refresh = jax.jit(
        partial(steps.refresh, recipe),
        in_shardings=(shardings, rows, rows),
        out_shardings=shardings,
        donate_argnums=0,
    )
    return {name: jit(step) for name, step in steps.STEPS.items()}, refresh


def compile_ahead(plan: Plan, state: TrainState, data: Batches, prompts: Batches) -> None:
    """Compiles all that is to come, one step after the other: who asks to leave waits for one only.

    What cannot be compiled is known before any work, too. The calls find what is compiled here.
    """
    first = int(state.step)
    for phase in plan.phases:
        if first < phase.until and phase.samples:
            plan.refresh.lower(
                state, *jax.device_put(prompts[first], plan.batch_sharding)
            ).compile()
        if first < phase.until:
            phase.step.lower(state, jax.device_put(data[first], plan.batch_sharding)).compile()


class Traces(NamedTuple):
    """Where a run writes down what happens, and who may interrupt it.

    Attributes:
      checkpoints: where states are saved.
      log: where metrics go.
      interruption: asked before each step.
      facts: what is saved with each state.
      seconds: what earlier parts of the run have taken.
    """

    checkpoints: Checkpoints
    log: MetricsLog
    interruption: Interruption
    facts: Mapping[str, Any] = {}
    seconds: float = 0.0


class Course:
    """What is reported while a plan is run from its step `first`."""

    def __init__(self, plan: Plan, traces: Traces, first: int):
        self.first, self._plan, self._traces = first, plan, traces
        work = [sum(plan.tokens(step)) for step in (first, plan.steps)]
        self.progress = ProgressLine(plan.steps, *work)
        self._watch = guard.Watch(plan.skip_nonfinite, files.tell)
        self._began = time.perf_counter() - traces.seconds
        self._pace = (first, time.perf_counter())
        self._accuracy: float | None = None

    def seconds(self) -> float:
        """What the run has taken, earlier parts included."""
        return time.perf_counter() - self._began

    def owes_a_look(self) -> bool:
        """Whether the step at which the run goes on was left before it was evaluated."""
        due = self.first > 0 and self._plan.due(self.first, self._plan.evaluate_every)
        return due and ("validation", self.first) not in self._traces.log

    def advanced(self, done: int, metrics: Metrics) -> None:
        """Step number `done` was taken."""
        self._watch.see(done, metrics)
        self.progress.advance(sum(self._plan.tokens(done)))
        if self._plan.due(done, self._plan.log_every):
            self._record(done, metrics)

    def look(self, evaluate: Evaluator, state: TrainState) -> None:
        """Evaluates the state on the validation set."""
        self._watch.settle()
        try:
            with self._traces.interruption.heard():
                figures = evaluate(state)
        except Exception:
            self.save(state)  # what led here is not lost with it
            raise
        self._accuracy, step = figures["accuracy/greedy"], int(state.step)
        record = {"kind": "validation", "step": step, **figures, "seconds": self.seconds()}
        self._traces.log.write(record)
        self._pace = (int(state.step), time.perf_counter())

    def save(self, state: TrainState) -> None:
        """Saves the state, after the records that lead to it."""
        self._watch.settle()
        self._traces.log.sync()
        facts = {**self._traces.facts, "seconds": self.seconds(), "records": self._traces.log.count}
        self._traces.checkpoints.save(state, facts)

    def _record(self, step: int, metrics: Metrics) -> None:
        record = {"kind": "train", "step": step, "phase": self._plan.phase(step - 1).name}
        record |= {name: np.asarray(x).item() for name, x in jax.device_get(metrics).items()}
        record |= _counts(self._plan, step, self._pace, self.seconds())
        self._pace = (step, time.perf_counter())
        self._traces.log.write(record)
        self.progress.report(step, record, self._accuracy)


def train(
    plan: Plan,
    state: TrainState,
    data: Batches,
    prompts: Batches,
    evaluate: Evaluator,
    traces: Traces,
) -> tuple[TrainState, float]:
    """Runs the plan from the state's step to its end.

    Args:
      plan: what to do when.
      state: the first state, or a restored one.
      data: data[i] is the batch of episodes of step i.
      prompts: prompts[i], (tokens, start), is what the refresh before step i completes.
      evaluate: state -> figures on the validation set.
      traces: where what happens is written down, and who may interrupt it.

    Returns:
      (the last state, seconds in all).

    Raises:
      Interrupted: the run was asked to leave; the state is saved.
      Diverged: too many steps in a row were not finite.
      OSError: a checkpoint could not be written.
    """
    course = Course(plan, traces, int(state.step))
    with traces.interruption.waiting(), course.progress:
        try:
            with traces.interruption.heard():
                compile_ahead(plan, state, data, prompts)
            if course.owes_a_look():
                course.look(evaluate, state)
            for step in range(course.first, plan.steps):
                traces.interruption.check(step)
                if plan.refreshes(step):
                    state = plan.refresh(state, *jax.device_put(prompts[step], plan.batch_sharding))
                batch = jax.device_put(data[step], plan.batch_sharding)
                state, metrics = plan.phase(step).step(state, batch)
                course.advanced(step + 1, metrics)
                traces.checkpoints.check()
                if plan.due(step + 1, plan.save_every):
                    course.save(state)  # first: a look may fail, and is made up for
                if plan.due(step + 1, plan.evaluate_every):
                    course.look(evaluate, state)
            traces.interruption.check(plan.steps)
        except Interrupted:
            course.save(state)
            raise
        finally:
            traces.checkpoints.wait()
    return state, course.seconds()


def _counts(plan: Plan, step: int, pace: tuple[int, float], seconds: float) -> dict:
    """Tokens so far, the speed since the last report, and the time."""
    (trained, sampled), (before, _) = plan.tokens(step), plan.tokens(pace[0])
    elapsed = max(time.perf_counter() - pace[1], 1e-9)
    return {
        "tokens": trained,
        "sampled_tokens": sampled,
        "tokens_per_second": (trained - before) / elapsed,
        "seconds": seconds,
    }
