"""Trains and judges one cell of a grid.

bc, sequencematch and le_cam begin with the same behavioural cloning (SequenceMatch, Algorithm 1). For
one seed, one kind of data and one optimiser that part, the stem, is trained once, and each run branches
from it. A branch is bit for bit what a run of its own would have reached, costs a fraction, and pairs
what is compared. A run of another method has a stem, of its own, where its settings change midway.

Stems and runs lie in runs/cells/, saved every five minutes, and each figure when it is made: a killed
one goes on there. Rows of results lie in experiments/results/NAME.jsonl.
"""

import fcntl
import importlib
import json
import time
import zlib
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from experiments.cell import Cell
from experiments.figures import Figures, mean_metrics, pack, pack_numbers, write_metrics
from experiments.texts import judge_texts
from sequencematch.cli.figures import policy_draws
from sequencematch.cli.resume import first_parameters
from sequencematch.data.task import Example
from sequencematch.evaluate.accuracy import accuracy
from sequencematch.evaluate.edits import edit_statistics
from sequencematch.evaluate.generate import Answer, Generator
from sequencematch.evaluate.values import Scores, answer_scores, value_statistics
from sequencematch.evaluate.wrong_starts import LENGTHS, answer_wrong_starts
from sequencematch.setup.build import Parts, build, make_plan, training_data
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import has_edits, resolve_dtype
from sequencematch.setup.judges import make_generator, make_scorer
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.provenance import devices, hardware, revision
from sequencematch.train.methods import METHODS
from sequencematch.train.plan import Plan
from sequencematch.train.state import TrainState

RESULTS, RUNS = Path(__file__).parent / "results", Path("runs/cells")
SAVE_SECONDS, METRICS_EVERY = 300, 25


def configure(cell: Cell) -> Parts:
    """The parts of a cell."""
    config = importlib.import_module(f"configs.{cell.config}").get_config(cell.method)
    config.update_from_flattened_dict({**cell.changes, **cell.last_changes, "seed": cell.seed})
    check_config(config)
    resolve_dtype(config, devices()[0].platform)
    return build(config)


def begin(cell: Cell) -> tuple[Parts, TrainState]:
    """The parts of a cell with its frozen parameters, and its state before the first step."""
    parts = configure(cell)
    params = first_parameters(parts)
    return parts.with_frozen(params), parts.begin(parts.split(params)[0])


def advance(parts: Parts, plan: Plan, state: TrainState, until: int, folder: Path) -> TrainState:
    """Trains to step `until`, without records, from a state or from the later one in a folder."""
    data, prompts = training_data(parts)
    with Checkpoints(folder, keep=1) as checkpoints:
        if not checkpoints.is_empty():
            state = checkpoints.restore(parts.like).state
        saved = time.monotonic()
        if int(state.step) < until:
            note_revision(folder)
        for step in range(int(state.step), until):
            if plan.refreshes(step):
                state = plan.refresh(state, *jax.device_put(prompts[step], plan.batch_sharding))
            batch = jax.device_put(data[step], plan.batch_sharding)
            state, metrics = plan.phase(step).step(state, batch)
            if step % METRICS_EVERY == 0:
                write_metrics(folder, step, metrics)
            if time.monotonic() - saved > SAVE_SECONDS:
                checkpoints.save(state, {"revision": code_revision()})
                saved = time.monotonic()
        checkpoints.save(state, {"revision": code_revision()})
    return state


def note_revision(folder: Path) -> None:
    """Adds the revision that trains a cell to those that did: a run may be resumed by another."""
    folder.mkdir(parents=True, exist_ok=True)
    known = dict.fromkeys([*revisions(folder), str(code_revision())])
    (folder / "trained_by").write_text("\n".join(known) + "\n")


def revisions(folder: Path) -> list[str]:
    """The revisions that have trained the cell of a folder, as far as they were noted."""
    path = folder / "trained_by"
    return path.read_text().split() if path.exists() else []


def trainers(cell: Cell, runs: Path = RUNS) -> list[str]:
    """The revisions that have trained a cell, its stem included."""
    cells = [stem_cell(cell), cell] if has_stem(cell) else [cell]
    return [*dict.fromkeys(x for each in cells for x in revisions(folder_of(each, runs)))]


def has_stem(cell: Cell) -> bool:
    """Whether a cell begins with something that is trained apart."""
    return METHODS[cell.method].edits or bool(cell.last_changes)


def stem_cell(cell: Cell) -> Cell:
    """What a cell begins with, as a cell of its own: bc, for methods that are made to have edits."""
    if not METHODS[cell.method].edits:
        return cell._replace(name="stem", split="", last_changes={})
    # The objective plays no part in it, nor does what changes later.
    changes = {k: v for k, v in cell.changes.items() if not k.startswith("objective.")}
    return Cell("stem", "bc", cell.seed, "", changes, config=cell.config)


def stem(cell: Cell, runs: Path = RUNS) -> TrainState:
    """The state after the stem of a cell, from disk if it has been trained already."""
    folder = folder_of(stem_cell(cell), runs)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be training it: wait
        parts, state = begin(stem_cell(cell))
        return advance(parts, make_plan(parts), state, parts.config.train.bc_steps, folder)


def waits_for_stem(cell: Cell, runs: Path = RUNS) -> bool:
    """Whether another process trains the stem of a cell at this moment."""
    path = folder_of(stem_cell(cell), runs) / "lock"
    if not (has_stem(cell) and path.exists()):
        return False
    with open(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def run(cell: Cell, runs: Path = RUNS) -> tuple[Parts, Plan, TrainState]:
    """Trains one cell; returns what it is made of and its last state."""
    parts, state = begin(cell)
    plan = make_plan(parts)
    if has_stem(cell):
        # The replay buffer stays empty: the first matching step is preceded by a refresh.
        state = stem(cell, runs)._replace(replay=state.replay)
    return parts, plan, advance(parts, plan, state, plan.steps, folder_of(cell, runs))


def folder_of(cell: Cell, runs: Path = RUNS) -> Path:
    """Where the run of a cell is saved."""
    return runs / f"{cell.seed}-{zlib.crc32(json.dumps(cell, sort_keys=True).encode()):08x}"


def judge(parts: Parts, state: TrainState, split: str, figures: Figures) -> None:
    """Adds accuracy and edits by way of decoding, with the questions that were answered rightly.

    Of open texts, whose answers are neither right nor wrong, the figures of `texts`, on test questions.
    """
    if parts.task.is_open:
        judge_texts(parts, state, figures)
        return
    generator, examples = make_generator(parts), parts.task.splits[split]
    params, greedy = parts.whole(state.params), []

    def answer(choice: str) -> dict[str, Any]:
        known = greedy if choice == "unedited" else []
        answers = answer_again(generator, params, examples, choice, known)
        greedy.extend(answers if choice == "greedy" else [])
        return accuracy(answers) | {
            "edits": edit_statistics(parts.recipe.mdp, answers, parts.task, parts.tokenizer),
            "questions": pack([a.right for a in answers]),
            "taken": pack_numbers([a.taken for a in answers], "u1"),
            "actions": pack_numbers([i for a in answers for i in a.actions], "<u2"),
        }

    for choice in generator.decodings:
        figures.add(choice, partial(answer, choice))
    if split == "test":
        judge_scores(parts, params, figures)
        figures.add("wrong_starts", lambda: judge_wrong_starts(parts, generator, params))


def answer_again(
    generator: Generator,
    params: nnx.State,
    examples: Sequence[Example],
    choice: str,
    greedy: Sequence[Answer],
) -> list[Answer]:
    """The answers to examples; where a greedy one without edits is known, it is the one without them.

    Args:
      generator, params, examples, choice: as of `Generator.answers`.
      greedy: the greedy answers, if `choice` is to be like them but for edits; else none.
    """
    pops = generator.mdp.pops
    kept = {i: a for i, a in enumerate(greedy) if not any(pops[x] for x in a.actions)}
    asked = [example for i, example in enumerate(examples) if i not in kept]
    found = generator.answers(params, asked, choice)
    return [kept[i] if i in kept else next(found) for i in range(len(examples))]


def judge_scores(parts: Parts, params: nnx.State, figures: Figures) -> None:
    """Adds how well scores of sampled answers tell right ones from wrong ones, and the scores."""
    gamma = parts.recipe.objective.gamma

    @cache
    def draw_scores() -> tuple[list[Scores], list[Answer], list[int]]:
        return policy_draws(parts, make_scorer(parts), params, lambda: None)

    def keep() -> dict[str, Any]:
        scores, answers, _ = draw_scores()
        right = [answer.right for answer in answers]
        rows = [answer_scores(score, gamma) for score in scores]
        columns = {name: pack_numbers([row[name] for row in rows], "<f4") for name in rows[0]}
        each = {"n": len(right), "samples": parts.config.evaluate.samples, "right": pack(right)}
        return each | {"scores": columns}

    def areas() -> dict[str, Any]:
        scores, answers, questions = draw_scores()
        return value_statistics(scores, [answer.right for answer in answers], questions, gamma)

    figures.add("auc", areas)
    figures.add("draws", keep)


def judge_wrong_starts(
    parts: Parts, generator: Generator, params: nnx.State
) -> dict[str, list[dict[str, Any]]]:
    """Which of the first test questions are answered rightly after 1, 2, ... wrong tokens, greedily.

    Nothing for a network without edits, whose answers are all wrong.
    """
    if not has_edits(parts.config):
        return {}
    test, seed = parts.task.splits["test"], parts.config.seed
    examples, found = [test[i] for i in range(min(parts.config.evaluate.examples, len(test)))], []
    for length in LENGTHS:
        answers = answer_wrong_starts(generator, params, examples, "greedy", length, seed)
        found.append({"n": len(answers), "questions": pack([a.right for a in answers])})
    return {"greedy": found}


def row(cell: Cell, runs: Path = RUNS) -> dict[str, Any]:
    """Runs a cell; returns its row of results. Its last state stays, to be asked for more."""
    began, of_code, tokens = time.perf_counter(), code_revision(), tokens_of(cell)
    parts, plan, state = run(cell, runs)
    trained, figures = time.perf_counter(), Figures(folder_of(cell, runs), of_code)
    judge(parts, state, cell.split, figures)
    return {
        **cell._asdict(),
        "steps": int(state.step),
        "skipped": int(state.guard.skipped),
        "tokens": tokens,
        "gamma": parts.recipe.objective.gamma,  # that scores of answers were made with
        "figures": figures.found,
        "training": mean_metrics(folder_of(cell, runs)),
        "seconds": {"train": trained - began, "evaluate": time.perf_counter() - trained},
        "trained_by": trainers(cell, runs),
        "revision": of_code,  # that answered the questions
        "hardware": hardware(),
    }


@cache
def code_revision() -> str | None:
    """The commit of the code that this process runs, results left out; to be called when it begins."""
    return revision(Path(__file__).parents[1], ("sequencematch", "configs", ":(glob)experiments/*"))


def tokens_of(cell: Cell) -> int:
    """Tokens that a cell is trained on or samples, its stem included, whose batches may be smaller."""
    plan = make_plan(configure(cell))
    total = sum(plan.tokens(plan.steps))
    if not cell.last_changes:
        return total
    first = configure(stem_cell(cell))
    branches_at = first.config.train.bc_steps
    return total - sum(plan.tokens(branches_at)) + sum(make_plan(first).tokens(branches_at))


def read_rows(grid: str) -> list[dict[str, Any]]:
    """The rows of a grid that are done."""
    path = RESULTS / f"{grid}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
