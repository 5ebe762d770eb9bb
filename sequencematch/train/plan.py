"""What happens at which step, and the compiled steps that do it."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from flax import nnx
from jax.sharding import Mesh

from sequencematch.train import mesh as meshes
from sequencematch.train import step as steps
from sequencematch.train.profiling import Work
from sequencematch.train.state import Recipe, Settings, TrainState


@runtime_checkable
class Batches(Protocol):
    """Random access to batch i by `[i]`; a grain data set or a list."""

    def __getitem__(self, index: int, /) -> Any: ...


class Phase(NamedTuple):
    """A stretch of training with one compiled step.

    Attributes:
      name: as shown in metrics.
      step: (state, batch) -> (state, metrics), jitted.
      until: the step at which the phase ends.
      samples: whether the replay buffer is refreshed during the phase.
      passes: trajectories that go through the network in each step.
      flops: of the matrix products that a step needs, on all devices; 0 where they are not known.
    """

    name: str
    step: Callable
    until: int
    samples: bool
    passes: int
    flops: int = 0


class Plan(NamedTuple):
    """The phases of a run, and all that recurs in it.

    Attributes:
      phases: in order.
      refresh: (state, prompts, start) -> state with new samples, jitted.
      slots: T, slots of a trajectory, for counting tokens.
      refresh_every: steps between refreshes.
      refresh_rows: episodes sampled in each refresh.
      log_every, evaluate_every, save_every: in steps.
      skip_nonfinite: steps in a row that may be skipped because they are not finite.
      batch_sharding: where batches are placed.
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

    def place(self, rows: Any) -> Any:
        """A batch on the devices, from the rows that this process feeds."""
        return meshes.place_rows(self.batch_sharding, rows)

    def phase(self, step: int) -> Phase:
        """The phase that `step` belongs to."""
        return next(phase for phase in self.phases if step < phase.until)

    def refreshes(self, step: int) -> bool:
        """Whether the replay buffer is refreshed before `step`."""
        phase, begin = next((p, begin) for p, begin in self.spans() if step < p.until)
        # Counted from the start of the phase: its first step must find samples in the buffer.
        return phase.samples and (step - begin) % self.refresh_every == 0

    def is_due(self, done: int, every: int) -> bool:
        """Whether something that recurs every `every` steps happens once `done` steps are done.

        At the end of the run everything does.
        """
        return done % every == 0 or done == self.steps

    def spans(self) -> Iterator[tuple[Phase, int]]:
        """Every phase, and the step at which it begins."""
        begin = 0
        for phase in self.phases:
            yield phase, begin
            begin = phase.until

    def steps_by_phase(self, done: int) -> Iterator[tuple[Phase, int]]:
        """Every phase, and how many of the first `done` steps belong to it."""
        for phase, begin in self.spans():
            yield phase, max(min(done, phase.until) - begin, 0)

    def tokens(self, done: int) -> tuple[int, int]:
        """Slots that went through the network in the first `done` steps.

        Returns:
          (slots in training, slots in sampling).
        """
        trained = sampled = 0
        for phase, taken in self.steps_by_phase(done):
            refreshes = -(-taken // self.refresh_every)  # rounded up: the first comes at once
            trained += taken * phase.passes
            sampled += phase.samples * refreshes * self.refresh_rows
        return trained * self.slots, sampled * self.slots

    def work(self, done: int) -> Work:
        """What the first `done` steps do."""
        flops = sum(phase.flops * taken for phase, taken in self.steps_by_phase(done))
        return Work(*self.tokens(done), flops)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A jitted function of (settings, frozen parameters, ...) for one run.

    Attributes:
      function: jitted.
      settings, frozen: its first arguments; they outlive each call.
    """

    function: jax.stages.Wrapped
    settings: Settings
    frozen: nnx.State

    def __call__(self, *args: Any) -> Any:
        return self.function(self.settings, self.frozen, *args)

    def trace(self, *args: Any) -> jax.stages.Traced:
        """As of a jitted function; arrays may be given by their shapes."""
        return self.function.trace(self.settings, self.frozen, *args)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """As of a jitted function."""
        return self.function.lower(self.settings, self.frozen, *args)


def compile_steps(
    make: Callable[[Settings], Recipe],
    settings: Settings,
    frozen: nnx.State,
    mesh: Mesh,
    shardings: TrainState,
) -> tuple[dict[str, Program], Program]:
    """Jits every step and the refresh; each is compiled when it is first called.

    Args:
      make: settings -> what the steps close over.
      settings: those of the run.
      frozen: the parameters that are not trained.
      mesh: the devices.
      shardings: where each array of the state lives, before and after a step.

    Returns:
      (step by name, refresh).
    """
    rows, everywhere = meshes.batch_sharding(mesh), meshes.replicated_sharding(mesh)
    where_frozen = jax.tree.map(lambda x: x.sharding, frozen)

    def jit(function: Callable, inputs: tuple, outputs: Any) -> Program:
        @functools.wraps(function)  # for its name, in messages and profiles
        def run(settings: Settings, frozen: nnx.State, state: TrainState, *inputs: Any) -> Any:
            return function(make(settings)._replace(frozen=frozen), state, *inputs)

        program = jax.jit(
            run,
            in_shardings=(everywhere, where_frozen, shardings, *inputs),
            # Fixed, or XLA might choose others, for which the next call would compile again.
            out_shardings=outputs,
            # The new state takes the memory of the old one, which must not be read afterwards.
            donate_argnums=2,
        )
        return Program(program, settings, frozen)

    refresh = jit(steps.refresh, (rows, rows), shardings)
    return {
        name: jit(step, (rows,), (shardings, everywhere)) for name, step in steps.STEPS.items()
    }, refresh


def compile_ahead(plan: Plan, state: TrainState, data: Batches, prompts: Batches) -> int:
    """Compiles what the rest of the run needs, so that a compiler error shows before any step.

    The steps are compiled one by one: a request to stop waits for at most one compilation. Later
    calls find the compiled programs in jax's cache.

    Returns:
      The bytes on each device of the step that takes the most, by the compiler's account; 0 where it
      gives none.
    """
    first, most = int(state.step), 0
    for phase in plan.phases:
        if phase.until <= first:
            continue
        if phase.samples:
            prompt = plan.place(prompts[first])
            plan.refresh.lower(state, *prompt).compile()
        batch = plan.place(data[first])
        most = max(most, peak_bytes(phase.step.lower(state, batch).compile()))
    return most


def peak_bytes(program: Any) -> int:
    """Bytes of each device that a compiled program takes, what it is given included; 0 if unknown."""
    found = program.memory_analysis()
    if found is None:
        return 0
    # Donated arguments give their memory to results: `alias`. (On CPUs XLA's own figure of the peak
    # leaves out what a program takes meanwhile.)
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + new + found.temp_size_in_bytes
