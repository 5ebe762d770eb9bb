"""--dry_run: traces every training step without running it, and prints the plan of a run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from sequencematch.data.facts import describe
from sequencematch.models.config import TransformerConfig
from sequencematch.models.lora import byte_count
from sequencematch.models.pretrained.configs import transformer_config
from sequencematch.models.pretrained.presets import PRESETS
from sequencematch.models.sharding import path_name
from sequencematch.setup import memory
from sequencematch.setup.build import Parts
from sequencematch.setup.defaults import mesh_size, network_config
from sequencematch.setup.effects import describe_effects
from sequencematch.setup.machine import available_bytes, format_bytes
from sequencematch.storage.console import ignore_write_failures, to_stdout
from sequencematch.storage.processes import is_first
from sequencematch.storage.provenance import hardware
from sequencematch.train.mesh import describe_idle
from sequencematch.train.plan import Batches, Phase, Plan

FILES = (
    "config.json, task.json, questions.jsonl, metrics.jsonl, tensorboard/, checkpoints/, summary.json, "
    "traces.jsonl, report.html"
)
BAR = 24  # characters of a bar as long as the peak


def trace(parts: Parts, plan: Plan, episodes: Batches, prompts: Batches) -> None:
    """Traces each step of the plan on the shapes of the first batch; compiles and computes nothing."""
    for phase, _, _ in remaining_phases(plan, 0):
        phase.step.trace(parts.like, episodes[0])
        if phase.samples:
            plan.refresh.trace(parts.like, *prompts[0])


def remaining_phases(plan: Plan, first: int) -> Iterator[tuple[Phase, int, int]]:
    """Yields (phase, its first step, its end) for what is left of the plan after `first` steps."""
    for phase, begin in plan.spans():
        if max(begin, first) < phase.until:
            yield phase, max(begin, first), phase.until


def print_plan(parts: Parts, plan: Plan, folder: Path, first: int) -> None:
    """Prints the plan of a run that has taken `first` steps."""
    if not is_first():
        return
    with ignore_write_failures(sys.stdout):
        console = Console(highlight=False)
        console.print(f"[bold]{parts.config.method} on {escape(parts.task.name)}[/bold]\n")
        facts = Table.grid(padding=(0, 2))
        for name, fact in describe_run(parts, plan, folder):
            facts.add_row(f"[dim]{name}[/dim]", escape(fact))
        tables = [facts, parameter_table(parts.like.params, "trained parameter")]
        if parts.parameters > parts.trained_parameters:
            tables.append(parameter_table(parts.frozen, "frozen parameter"))
        tables.append(phase_table(plan, first))
        # What a network takes that a task brings is not known before it is compiled.
        tables += [memory_table(parts)] * (not parts.task.network)
        for table in tables:
            console.print(Padding(table, (0, 0, 1, 2), expand=False))


def print_verdict() -> None:
    """Prints that the run could begin."""
    to_stdout("All checks passed. Nothing was trained, and the folder was not touched.")


def describe_run(parts: Parts, plan: Plan, folder: Path) -> Iterator[tuple[str, str]]:
    """Yields (name, facts in words) of the data, network, devices, schedule and folder."""
    c = parts.config
    sizes = (f"{len(parts.task.splits[s]):,} {s}" for s in ("train", "validation", "test"))
    yield "data", f"{', '.join(sizes)}; {parts.tokenizer.vocab_size} symbols; {data_origin(c)}"
    yield from (("", sentence) for sentence in describe(parts.data.found))
    yield from zip(("network", ""), describe_network(parts), strict=False)
    yield from (("note", sentence) for sentence in describe_effects(c))
    yield (
        "devices",
        f"{hardware()}; mesh of {c.mesh.data} for data x {c.mesh.fsdp} for fsdp x "
        f"{c.mesh.model} for the model",
    )
    yield from (("", sentence) for sentence in [describe_idle(parts.mesh)] if sentence)
    yield (
        "schedule",
        f"validation every {plan.evaluate_every:,} steps, a checkpoint every {plan.save_every:,}",
    )
    asked = min(c.evaluate.examples, len(parts.task.splits["validation"]))
    yield "judged by", f"{parts.task.judged_by} of the answers to {asked:,} questions"
    yield "folder", f"{folder}/ would hold {FILES}"


def describe_network(parts: Parts) -> Iterator[str]:
    """Yields one or two facts of the network in words."""
    c, count = parts.config, f"{parts.parameters:,} parameters"
    if jax.tree.leaves(parts.frozen):
        count += f" ({describe_trained(parts)})"
    if parts.task.network:
        yield f"{count}; {parts.slots} slots; the task's own: config.model plays no part"
        return
    m = network_config(c, parts.tokenizer.vocab_size, len(parts.tokenizer.pops))
    yield (
        f"{count}: {m.layers} layers of width {m.d_model} and {m.d_ff}, "
        f"{m.heads} heads, {m.kv_heads} key heads, {m.dtype}; {parts.slots} slots"
    )
    if c.model.preset:
        yield compare_vocabularies(c.model.preset, m)


def describe_trained(parts: Parts) -> str:
    """How many parameters are trained, and the bytes of both kinds; of a run with frozen ones."""
    trained = byte_count(parts.like.params)
    return (
        f"{parts.trained_parameters:,} of them trained, {format_bytes(trained)}; frozen ones take "
        f"{format_bytes(parts.parameter_bytes - trained)}"
    )


def compare_vocabularies(preset: str, network: TransformerConfig) -> str:
    """What a network with the rows of a task lacks of a known model's."""
    own, task = transformer_config(PRESETS[preset]).vocab_size, network.embedding_rows
    missing = (own - task) * network.d_model * (1 if network.tied else 2)
    return (
        f"{task:,} rows of embedding, the task's symbols; {preset} itself has {own:,}, which are "
        f"{missing:,} parameters more"
    )


def data_origin(config: ConfigDict) -> str:
    """Where the data come from."""
    origins = {
        "arithmetic": f"stored in {config.data.dir}",
        "jsonl": f"from {config.data.path}",
    }
    return origins.get(config.task, f"from {config.task}")


def parameter_table(params: nnx.State, title: str) -> Table:
    """The shape of each parameter, and of its part on a device; of blocks, the first axis is layers."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(title, overflow="fold")  # a name is never cut short
    for name in ("shape", "on each device", "dtype"):
        table.add_column(name, no_wrap=True)
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        shapes = (x.shape, x.sharding.shard_shape(x.shape))
        table.add_row(path_name(path), *("x".join(map(str, s)) for s in shapes), str(x.dtype))
    return table


def phase_table(plan: Plan, first: int) -> Table:
    """The remaining phases, and how many tokens each passes through the network."""
    table = Table("phase", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("steps", "", "", "tokens trained", "sampled"):
        table.add_column(name, justify="right")
    for phase, begin, until in remaining_phases(plan, first):
        before, after = plan.tokens(begin), plan.tokens(until)
        tokens = (f"{m - n:,}" for m, n in zip(after, before, strict=True))
        table.add_row(phase.name, f"{begin:,}", "to", f"{until:,}", *tokens)
    return table


def memory_table(parts: Parts) -> Table:
    """The estimated memory of each part, and the peak against what is available."""
    c, vocab_size = parts.config, parts.tokenizer.vocab_size
    estimate = memory.estimate_training(c, vocab_size, parts.data.nbytes)
    table = Table("memory, each device", box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", justify="right")
    rows = [(part.name, part.size, "always") for part in estimate.permanent]
    rows += [("the examples", estimate.examples, "already")] * bool(estimate.examples)
    rows += [(part.name, part.size, "at times") for part in estimate.temporary]
    if estimate.checkpoint:
        rows.append(("a checkpoint being written", estimate.checkpoint, "at times"))
    for name, size, when in rows:
        bar = "█" * round(BAR * size / estimate.peak)
        table.add_row(name, format_bytes(size), f"[dim]{when:8}[/dim] {bar}")
    available = format_bytes(available_bytes(mesh_size(c)))
    # Temporary parts do not exist at the same time, so the peak is less than the sum of the rows.
    table.add_row("[bold]at most", f"[bold]{format_bytes(estimate.peak)}", f"of {available} free")
    return table
