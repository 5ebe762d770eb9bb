"""Algorithm 1 as a loop: steps of behavioural cloning, then of matching, with samples in between."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from sequencematch.train import mesh as meshes
from sequencematch.train import step as steps
from sequencematch.train.checkpoint import Checkpoints
from sequencematch.train.log import MetricsLog, ProgressLine
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


def train(
    plan: Plan,
    state: TrainState,
    data: Batches,
    prompts: Batches,
    evaluate: Evaluator,
    checkpoints: Checkpoints,
    log: MetricsLog,
    seconds: float = 0.0,
) -> tuple[TrainState, float]:
    """Runs the plan from the state's step to its end.

    Args:
      plan: what to do when.
      state: the first state, or a restored one.
      data: data[i] is the batch of episodes of step i.
      prompts: prompts[i], (tokens, start), is what the refresh before step i completes.
      evaluate: state -> figures on the validation set.
      checkpoints: where states are saved.
      log: where metrics go.
      seconds: what earlier parts of the run have taken.

    Returns:
      (the last state, seconds in all).
    """
    first, accuracy = int(state.step), None
    clock = time.perf_counter() - seconds
    pace = (first, time.perf_counter())
    work = [sum(plan.tokens(step)) for step in (first, plan.steps)]
    with ProgressLine(plan.steps, *work) as progress:
        for step in range(first, plan.steps):
            phase = plan.phase(step)
            if plan.refreshes(step):
                state = plan.refresh(state, *jax.device_put(prompts[step], plan.batch_sharding))
            state, metrics = phase.step(state, jax.device_put(data[step], plan.batch_sharding))
            done = step + 1
            progress.advance(sum(plan.tokens(done)))
            if done % plan.log_every == 0 or done == plan.steps:
                record = {"kind": "train", "step": done, "phase": phase.name}
                record |= {name: float(x) for name, x in jax.device_get(metrics).items()}
                record |= _counts(plan, done, pace, time.perf_counter() - clock)
                pace = (done, time.perf_counter())
                log.write(record)
                progress.report(done, record, accuracy)
            if done % plan.evaluate_every == 0 or done == plan.steps:
                figures = evaluate(state)
                accuracy = figures["accuracy/greedy"]
                log.write({"kind": "validation", "step": done, **figures})
                pace = (done, time.perf_counter())
            if done % plan.save_every == 0 or done == plan.steps:
                checkpoints.save(state, time.perf_counter() - clock)
    return state, time.perf_counter() - clock


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
