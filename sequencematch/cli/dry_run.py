"""What a run would do, drawn for a person, with every step followed in shapes and none taken."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from sequencematch.setup import memory
from sequencematch.setup.build import Parts
from sequencematch.setup.machine import available_bytes, format_bytes
from sequencematch.storage.console import ignore_write_failures
from sequencematch.storage.provenance import hardware
from sequencematch.train.plan import Batches, Phase, Plan

FILES = "config.json, metrics.jsonl, tensorboard/, checkpoints/, summary.json, traces.jsonl, report"
BAR = 24


def trace(run: Parts, plan: Plan, episodes: Batches, prompts: Batches) -> None:
    """Follows the shapes of the first batch through each step that the plan has; compiles nothing."""
    for phase, _, _ in stretches(plan, 0):
        jax.eval_shape(phase.step, run.like, episodes[0])
        if phase.samples:
            jax.eval_shape(plan.refresh, run.like, *prompts[0])


def stretches(plan: Plan, first: int) -> Iterator[tuple[Phase, int, int]]:
    """(phase, its first step, its end) of what is left of the plan after `first` steps."""
    for phase, begin in plan.spans():
        if max(begin, first) < phase.until:
            yield phase, max(begin, first), phase.until


def show(run: Parts, plan: Plan, folder: Path, first: int) -> None:
    """Prints the plan of a run that has taken `first` steps."""
    with ignore_write_failures(sys.stdout):
        console = Console(highlight=False)
        console.print(f"[bold]{run.config.method} on {escape(run.task.name)}[/bold]\n")
        facts = Table.grid(padding=(0, 2))
        for name, fact in words(run, plan, folder):
            facts.add_row(f"[dim]{name}[/dim]", escape(fact))
        for table in (facts, steps(plan, first), parts(run)):
            console.print(Padding(table, (0, 0, 1, 2), expand=False))
        console.print(
            "Everything that can be checked beforehand holds. "
            "Nothing was trained, the folder not touched."
        )


def words(run: Parts, plan: Plan, folder: Path) -> Iterator[tuple[str, str]]:
    """What is best said in words: (of what, what)."""
    c, m = run.config, run.config.model
    sizes = (f"{len(run.task.splits[s]):,} {s}" for s in ("train", "validation", "test"))
    yield "data", f"{', '.join(sizes)}; {run.tokenizer.vocab_size} symbols; {origin(c)}"
    yield (
        "network",
        f"{run.parameters:,} parameters: {m.layers} layers of width {m.d_model} and {m.d_ff}, "
        f"{m.heads} heads, {m.kv_heads} of keys, {m.dtype}; {run.slots} slots",
    )
    yield (
        "devices",
        f"{hardware()}; mesh of {c.mesh.data} for data x {c.mesh.model} for the model",
    )
    yield (
        "cadence",
        f"validation every {plan.evaluate_every:,} steps, a checkpoint every {plan.save_every:,}",
    )
    yield "folder", f"{folder}/ would hold {FILES}"


def origin(config: ConfigDict) -> str:
    """Where the data comes from."""
    places = {
        "arithmetic": f"kept in {config.data.dir}, made just now if it was not there",
        "jsonl": f"of {config.data.path}",
    }
    return places.get(config.task, f"of {config.task}")


def steps(plan: Plan, first: int) -> Table:
    """The phases, and the tokens that each takes through the network."""
    table = Table("phase", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("steps", "", "", "tokens trained", "sampled"):
        table.add_column(name, justify="right")
    for phase, begin, until in stretches(plan, first):
        (trained, sampled), (before, drawn) = plan.tokens(until), plan.tokens(begin)
        counts = (f"{n:,}" for n in (begin, until, trained - before, sampled - drawn))
        start, end, *tokens = counts
        table.add_row(phase.name, start, "to", end, *tokens)
    return table


def parts(run: Parts) -> Table:
    """The memory of each part against the peak, and the peak against what there is."""
    c, estimate = run.config, memory.estimate_training(run.config, run.tokenizer.vocab_size)
    table = Table("memory, each device", box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", justify="right")
    rows = [(part.name, part.size, "always") for part in estimate.held]
    rows += [(part.name, part.size, "at times") for part in estimate.passing]
    if estimate.written:
        rows.append(("a checkpoint being written", estimate.written, "at times"))
    for name, size, when in rows:
        bar = "█" * round(BAR * size / estimate.peak)
        table.add_row(name, format_bytes(size), f"[dim]{when:8}[/dim] {bar}")
    there = available_bytes(c.mesh.data * c.mesh.model)
    most = f"of {format_bytes(there)} free"
    table.add_row("[bold]at most", f"[bold]{format_bytes(estimate.peak)}", most)
    return table
