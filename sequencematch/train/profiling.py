"""Where the time of a run goes, how much of its devices it uses, and traces of its steps.

MFU, model FLOPs utilisation (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): FLOPs that the steps
of training need, over what the devices could have done meanwhile. The FLOPs are those of matrix
products (setup/network_flops.py); nothing that is computed twice counts twice. The time is that of
steps, waiting for their batches included; sampling, checkpoints, validation and compiling are not in
it. The peak is that of dense products in bfloat16, whatever the network is in.
"""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from sequencematch.storage.console import to_stderr, to_stdout
from sequencematch.storage.processes import is_first

# What a run does besides steps. "data": it waits for a batch; "checkpoints": it waits for a save.
ACTIVITIES = ("compiling", "data", "sampling", "validation", "checkpoints")
# Those in the records of training, as shares of the time.
WAITS = ("data", "sampling", "checkpoints")

# Fields of records that depend on the clock: they may differ between equal runs.
CLOCK = (
    *("time", "seconds", "tokens_per_second", "sampled_tokens_per_second"),
    *("flops_per_second", "mfu", *(f"time/{name}" for name in WAITS)),
)

# What jax calls a device -> FLOP/s of its dense products in bfloat16, without sparsity. Of NVIDIA's the
# data sheets (nvidia.com/en-us/data-center: a100, h100, h200, l4, l40s, hgx; where a sheet gives a
# figure with sparsity, half of it), of TPUs cloud.google.com/tpu/docs/v4, v5e, v5p, v6e.
PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756.5e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H100": 989.5e12,
    "NVIDIA H200 NVL": 835.5e12,
    "NVIDIA H200": 989.5e12,
    "NVIDIA GH200": 989.5e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


def peak_flops(kind: str) -> float | None:
    """FLOP/s of a device by the name that jax gives it; None for one that is not known, as a CPU.

    NVIDIA's names go on with more, as in "NVIDIA A100-SXM4-80GB"; a slice of a card is not known.
    """

    def is_named(name: str) -> bool:
        return kind == name or (name[0] == "N" and bool(re.match(rf"{name}\b(?!.*\bMIG\b)", kind)))

    return PEAKS.get(max(filter(is_named, PEAKS), key=len, default=""))


class Work(NamedTuple):
    """What a stretch of a run has done.

    Attributes:
      tokens: slots that went through the network in training.
      sampled_tokens: slots that went through it in sampling.
      flops: of the steps of training, on all devices; 0 where they are not known.
    """

    tokens: int
    sampled_tokens: int
    flops: int

    def since(self, before: "Work") -> "Work":
        """What was done after `before`."""
        return Work(*(new - old for new, old in zip(self, before, strict=True)))


class Stopwatch:
    """Seconds that a run takes, in all and for each of `ACTIVITIES`; the others are its steps'.

    Args:
      spent: of earlier parts of the run, as of `read`.
    """

    def __init__(self, spent: Mapping[str, float] = {}):
        self._spent = dict.fromkeys(ACTIVITIES, 0.0)
        self._spent |= {name: spent[name] for name in ACTIVITIES if name in spent}
        self._began = time.perf_counter() - spent.get("all", 0.0)

    @contextlib.contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """A block that belongs to an activity."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[activity] += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Seconds by activity, and of "all" of them and the steps."""
        return self._spent | {"all": time.perf_counter() - self._began}


def time_between(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Seconds between two readings of a stopwatch."""
    return {name: now[name] - before[name] for name in now}


def speeds(work: Work, spent: Mapping[str, float], devices: int, kind: str) -> dict[str, float]:
    """How fast a stretch of a run was.

    Args:
      work: what it did.
      spent: the seconds it took, as of `Stopwatch.read`.
      devices: how many there are.
      kind: what jax calls them.

    Returns:
      tokens_per_second, of training, over all but compiling and validation; sampled_tokens_per_second,
      over the time in sampling, if it sampled; flops_per_second of each device and, if its peak is
      known, mfu, both over the time of steps.
    """
    least = 1e-9  # a coarse clock may not have moved
    running = max(spent["all"] - spent["compiling"] - spent["validation"], least)
    stepping = max(running - spent["sampling"] - spent["checkpoints"], least)
    found = {"tokens_per_second": work.tokens / running}
    if work.sampled_tokens:
        found["sampled_tokens_per_second"] = work.sampled_tokens / max(spent["sampling"], least)
    if work.flops:
        found["flops_per_second"] = work.flops / stepping / devices
        peak = peak_flops(kind)
        found |= {"mfu": found["flops_per_second"] / peak} if peak else {}
    return found


def shares(spent: Mapping[str, float]) -> dict[str, float]:
    """The share of each activity in all the time, and that of steps, which is the rest."""
    found = {name: spent[name] / max(spent["all"], 1e-9) for name in ACTIVITIES}
    return {"steps": 1 - sum(found.values())} | found


def describe_peak(flops: int, kind: str) -> str:
    """One sentence: what a step computes, and what MFU is a share of."""
    peak = peak_flops(kind)
    if not flops:
        return "the FLOPs of this network are not known, so no FLOP/s and no MFU is claimed"
    of = (
        f"MFU is of the {peak / 1e12:,.0f} TFLOP/s in bfloat16 of each {kind}"
        if peak
        else (f"no MFU is claimed, as the peak of {kind!r} is not known")
    )
    return f"a step of training takes {flops:.3g} FLOPs; {of}"


class Traced(NamedTuple):
    """What is looked at closely.

    Attributes:
      steps: whose work is traced, such as 100 to 109; an empty range for none.
      memory: the step before which the device's memory is written down; None for none.
    """

    steps: range = range(0)
    memory: int | None = None


def read_traced(steps: str | None, memory: int | None, last: int) -> Traced:
    """What --profile=FIRST:END and --memory_profile=STEP ask for, in a run of `last` steps.

    Raises:
      ValueError: there are no such steps.
    """
    found = re.fullmatch(r"(\d{1,18}):(\d{1,18})", steps or "0:0")
    first, end = map(int, found.groups()) if found else (0, 0)
    if steps is not None and not 0 <= first < end <= last:
        raise ValueError(
            f"--profile={steps} must be FIRST:END, steps of a run of {last}: 0 <= FIRST < END <= {last}"
        )
    if memory is not None and not 0 <= memory <= last:
        raise ValueError(f"--memory_profile={memory} must be a step of the run, 0 to {last}")
    return Traced(range(first, end), memory)


def describe_past(traced: Traced, step: int) -> Iterator[str]:
    """Sentences on what is not traced, or in part, since a run goes on at a step after it.

    A run that is started again comes with the flags of its first start, so it is no reason to refuse.
    """
    first, end = traced.steps.start, traced.steps.stop
    if first < min(step, end):
        rest = f", so {step} to {end - 1} are traced" if step < end else ", so none is traced"
        yield f"--profile={first}:{end}: the run goes on at step {step}{rest}"
    if traced.memory is not None and traced.memory < step:
        yield f"--memory_profile={traced.memory}: the run goes on at step {step}, so none is written"


class Profiler:
    """Writes what is traced into a folder, beside those that are there.

    A trace that cannot be written is reported; the run goes on, as it does not depend on it. Of several
    processes the first traces what it does itself.

    Args:
      folder: where; it is created when there is something to write.
      traced: what.
    """

    def __init__(self, folder: Path, traced: Traced = Traced()):
        self._folder, self._traced = folder, traced if is_first() else Traced()
        self._is_tracing, self._first, self._last = False, 0, 0

    def at(self, step: int, state: Any) -> None:
        """Starts and ends what starts and ends before this step; `state` is that before it."""
        if step in self._traced.steps and not self._is_tracing:
            jax.block_until_ready(state)
            self._is_tracing = self._try(lambda: jax.profiler.start_trace(self._folder))
            self._first = step
        if self._is_tracing and step == self._traced.steps.stop:
            jax.block_until_ready(state)
            self.close()
        self._last = step
        if step == self._traced.memory:
            jax.block_until_ready(state)
            self._save_memory(step)

    def close(self) -> None:
        """Ends a trace, if there is one."""
        if self._is_tracing:
            self._is_tracing = False
            if self._try(jax.profiler.stop_trace):
                to_stdout(f"steps {self._first} to {self._last} are traced in {self._folder}/")

    def _save_memory(self, step: int) -> None:
        again = ("", *(f"-{i}" for i in range(2, 1000)))
        paths = (self._folder / f"memory-{step}{each}.prof" for each in again)
        path = next(path for path in paths if not path.exists())

        def write() -> None:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.save_device_memory_profile(path)

        if self._try(write):
            to_stdout(f"the memory of the devices before step {step} is in {path}")

    def _try(self, write: Any) -> bool:
        try:
            write()
        except (OSError, RuntimeError) as error:
            to_stderr(f"no trace is written into {self._folder}/ ({error}); training goes on")
            self._traced = Traced()
            return False
        return True
