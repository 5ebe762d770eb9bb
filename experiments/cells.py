"""Trains and judges one cell of a grid.

Every method with edits begins with the same behavioural cloning (SequenceMatch, Algorithm 1). For one
seed and one optimiser that part, the stem, is trained once, and each run branches from it. A branch is
bit for bit what a run of its own would have reached, costs a fraction, and pairs what is compared.

Stems lie in runs/stems/; rows of results in experiments/results/NAME.jsonl.
"""

import fcntl
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs.arithmetic import get_config
from experiments.grids import Cell
from sequencematch.cli.results import policy_statistics
from sequencematch.evaluate.accuracy import accuracy
from sequencematch.evaluate.edits import edit_statistics
from sequencematch.setup.build import Parts, build, make_plan, training_data
from sequencematch.setup.check import check_config
from sequencematch.setup.judges import make_generator, make_scorer
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.provenance import hardware, revision
from sequencematch.train.methods import METHODS
from sequencematch.train.plan import Plan
from sequencematch.train.state import TrainState

RESULTS, STEMS = Path(__file__).parent / "results", Path("runs/stems")


def make_parts(method: str, seed: int, changes: Mapping[str, Any]) -> Parts:
    """The parts of configs/arithmetic.py with some keys changed."""
    config = get_config(method)
    config.update_from_flattened_dict({**changes, "seed": seed})
    check_config(config)
    return build(config)


def advance(parts: Parts, plan: Plan, state: TrainState, until: int) -> TrainState:
    """Trains from the state's step to step `until`, without records."""
    data, prompts = training_data(parts)
    for step in range(int(state.step), until):
        if plan.refreshes(step):
            state = plan.refresh(state, *jax.device_put(prompts[step], plan.batch_sharding))
        batch = jax.device_put(data[step], plan.batch_sharding)
        state, _ = plan.phase(step).step(state, batch)
    return state


def stem(cell: Cell, stems: Path = STEMS) -> TrainState:
    """The state after the behavioural cloning of a cell, from disk if it has been trained already."""
    # The objective plays no part in it.
    changes = {k: v for k, v in cell.changes.items() if not k.startswith("objective.")}
    parts = make_parts("bc", cell.seed, changes)
    name = f"{cell.seed}-{zlib.crc32(json.dumps(changes, sort_keys=True).encode()):08x}"
    folder = stems / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be training it: wait
        if (folder / "done").exists():
            with Checkpoints(folder) as checkpoints:
                return checkpoints.restore(parts.like).state
        cloned = advance(parts, make_plan(parts), parts.initial(), parts.config.train.bc_steps)
        with Checkpoints(folder, keep=1) as checkpoints:
            checkpoints.save(cloned, {"revision": revision()})
        (folder / "done").touch()
    return cloned


def run(cell: Cell, stems: Path = STEMS) -> tuple[Parts, Plan, TrainState]:
    """Trains one cell; returns what it is made of and its last state."""
    parts = make_parts(cell.method, cell.seed, {**cell.changes, **cell.last_changes})
    plan, state = make_plan(parts), parts.initial()
    if METHODS[cell.method].edits:
        # The replay buffer stays empty: the first matching step is preceded by a refresh.
        state = stem(cell, stems)._replace(replay=state.replay)
    return parts, plan, advance(parts, plan, state, plan.steps)


def judge(parts: Parts, state: TrainState, split: str) -> dict[str, Any]:
    """Accuracy and edits by way of decoding, with the questions that were answered rightly."""
    generator, examples = make_generator(parts), parts.task.splits[split]
    figures: dict[str, Any] = {}
    for choice in generator.decodings:
        answers = list(generator.answers(parts.whole(state.params), examples, choice))
        figures[choice] = accuracy(answers) | {
            "edits": edit_statistics(parts.recipe.mdp, answers, parts.task, parts.tokenizer),
            "questions": pack([a.right for a in answers]),
        }
    if split == "test":
        figures["auc"] = policy_statistics(
            parts, make_scorer(parts), parts.whole(state.params), lambda: None
        )
    return figures


def row(cell: Cell) -> dict[str, Any]:
    """Runs a cell; returns its row of results."""
    began = time.perf_counter()
    parts, plan, state = run(cell)
    trained = time.perf_counter()
    figures = judge(parts, state, cell.split)
    return {
        **cell._asdict(),
        "steps": int(state.step),
        "skipped": int(state.guard.skipped),
        "tokens": sum(plan.tokens(plan.steps)),
        "figures": figures,
        "seconds": {"train": trained - began, "evaluate": time.perf_counter() - trained},
        "revision": revision(),
        "hardware": hardware(),
    }


def pack(right: Sequence[bool]) -> str:
    """Bits as hexadecimal digits, the first question in the highest bit."""
    return np.packbits(np.asarray(right, bool)).tobytes().hex()


def unpack(digits: str, n: int) -> np.ndarray:
    """The n bits of `pack`, as bool[n]."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=n).astype(bool)


def read_rows(grid: str) -> list[dict[str, Any]]:
    """The rows of a grid that are done."""
    path = RESULTS / f"{grid}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
