"""What happens at which step, and the compiled steps that do it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from sequencematch.train import mesh as meshes
from sequencematch.train import step as steps
from sequencematch.train.state import Recipe, TrainState


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
    rows, everywhere = meshes.batch_sharding(mesh), meshes.replicated_sharding(mesh)

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
