"""Trains and judges one cell of a grid.

Every method with edits begins with the same behavioural cloning (SequenceMatch, Algorithm 1). For one
seed, one kind of data and one optimiser that part, the stem, is trained once, and each run branches
from it. A branch is bit for bit what a run of its own would have reached, costs a fraction, and pairs
what is compared.

Stems and unfinished runs lie in runs/cells/, saved every five minutes: a killed one goes on there. Rows
of results lie in experiments/results/NAME.jsonl.
"""

import fcntl
import importlib
import json
import shutil
import time
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.grids import Cell
from experiments.texts import judge_texts
from sequencematch.cli.results import policy_auc
from sequencematch.cli.resume import first_parameters
from sequencematch.evaluate.accuracy import accuracy
from sequencematch.evaluate.edits import edit_statistics
from sequencematch.evaluate.generate import VALIDATED
from sequencematch.evaluate.wrong_starts import LENGTHS, answer_wrong_starts
from sequencematch.setup.build import Parts, build, make_plan, training_data
from sequencematch.setup.check import check_config
from sequencematch.setup.judges import make_generator, make_scorer
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.provenance import hardware, revision
from sequencematch.train.methods import METHODS
from sequencematch.train.plan import Plan
from sequencematch.train.state import TrainState

RESULTS, RUNS = Path(__file__).parent / "results", Path("runs/cells")
SAVE_SECONDS = 300


def begin(cell: Cell) -> tuple[Parts, TrainState]:
    """The parts of a cell, and its state before the first step."""
    config = importlib.import_module(f"configs.{cell.config}").get_config(cell.method)
    config.update_from_flattened_dict({**cell.changes, **cell.last_changes, "seed": cell.seed})
    check_config(config)
    parts = build(config)
    params = first_parameters(parts)
    return parts.with_frozen(params), parts.begin(parts.split(params)[0])


def advance(parts: Parts, plan: Plan, state: TrainState, until: int, folder: Path) -> TrainState:
    """Trains to step `until`, without records, from a state or from the later one in a folder."""
    data, prompts = training_data(parts)
    with Checkpoints(folder, keep=1) as checkpoints:
        if not checkpoints.is_empty():
            state = checkpoints.restore(parts.like).state
        saved = time.monotonic()
        for step in range(int(state.step), until):
            if plan.refreshes(step):
                state = plan.refresh(state, *jax.device_put(prompts[step], plan.batch_sharding))
            batch = jax.device_put(data[step], plan.batch_sharding)
            state, _ = plan.phase(step).step(state, batch)
            if time.monotonic() - saved > SAVE_SECONDS:
                checkpoints.save(state, {"revision": revision()})
                saved = time.monotonic()
        checkpoints.save(state, {"revision": revision()})
    return state


def stem_cell(cell: Cell) -> Cell:
    """The behavioural cloning that a cell begins with, as a cell of its own."""
    # The objective plays no part in it, nor does what changes later.
    changes = {k: v for k, v in cell.changes.items() if not k.startswith("objective.")}
    return Cell("stem", "bc", cell.seed, "", changes, config=cell.config)


def stem(cell: Cell, runs: Path = RUNS) -> TrainState:
    """The state after the behavioural cloning of a cell, from disk if it has been trained already."""
    folder = folder_of(stem_cell(cell), runs)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be training it: wait
        parts, state = begin(stem_cell(cell))
        return advance(parts, make_plan(parts), state, parts.config.train.bc_steps, folder)


def run(cell: Cell, runs: Path = RUNS) -> tuple[Parts, Plan, TrainState]:
    """Trains one cell; returns what it is made of and its last state."""
    parts, state = begin(cell)
    plan = make_plan(parts)
    if METHODS[cell.method].edits:
        # The replay buffer stays empty: the first matching step is preceded by a refresh.
        state = stem(cell, runs)._replace(replay=state.replay)
    return parts, plan, advance(parts, plan, state, plan.steps, folder_of(cell, runs))


def folder_of(cell: Cell, runs: Path = RUNS) -> Path:
    """Where the run of a cell is saved until it has a row."""
    return runs / f"{cell.seed}-{zlib.crc32(json.dumps(cell, sort_keys=True).encode()):08x}"


def forget(cell: Cell, runs: Path = RUNS) -> None:
    """Removes what is saved of the run of a cell; its stem stays."""
    shutil.rmtree(folder_of(cell, runs))


def judge(parts: Parts, state: TrainState, split: str) -> dict[str, Any]:
    """Accuracy and edits by way of decoding, with the questions that were answered rightly.

    Of open texts, whose answers are neither right nor wrong, the figures of `texts`.
    """
    if parts.task.is_open:
        return judge_texts(parts, state)
    generator, examples = make_generator(parts), parts.task.splits[split]
    figures: dict[str, Any] = {}
    for choice in generator.decodings:
        answers = list(generator.answers(parts.whole(state.params), examples, choice))
        figures[choice] = accuracy(answers) | {
            "edits": edit_statistics(parts.recipe.mdp, answers, parts.task, parts.tokenizer),
            "questions": pack([a.right for a in answers]),
        }
    if split == "test":
        params = parts.whole(state.params)
        figures["auc"] = policy_auc(parts, make_scorer(parts), params, lambda: None)
        figures["wrong_starts"] = judge_wrong_starts(parts, state)
    return figures


def judge_wrong_starts(parts: Parts, state: TrainState) -> dict[str, list[dict[str, Any]]]:
    """Which of the first test questions are answered rightly after 1, 2, ... wrong tokens.

    By way to answer; nothing for a network without edits, whose answers are all wrong.
    """
    generator, params = make_generator(parts), parts.whole(state.params)
    test, seed = parts.task.splits["test"], parts.config.seed
    examples = [test[i] for i in range(min(parts.config.evaluate.examples, len(test)))]
    choices = VALIDATED if METHODS[parts.config.method].edits else ()
    found: dict[str, list[dict[str, Any]]] = {choice: [] for choice in choices}
    for choice, length in product(choices, LENGTHS):
        answers = answer_wrong_starts(generator, params, examples, choice, length, seed)
        found[choice].append({"n": len(answers), "questions": pack([a.right for a in answers])})
    return found


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
        "tokens": tokens_of(cell, plan),
        "figures": figures,
        "seconds": {"train": trained - began, "evaluate": time.perf_counter() - trained},
        "revision": revision(),
        "hardware": hardware(),
    }


def tokens_of(cell: Cell, plan: Plan) -> int:
    """Tokens that a cell was trained on or sampled, its stem included, whose batches may be smaller."""
    total = sum(plan.tokens(plan.steps))
    if not (METHODS[cell.method].edits and cell.last_changes):
        return total
    first = make_plan(begin(stem_cell(cell))[0])
    branches_at = begin(cell)[0].config.train.bc_steps
    return total - sum(plan.tokens(branches_at)) + sum(first.tokens(branches_at))


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
