"""A run that takes seconds, and helpers to interrupt it at any step, resume it and compare results."""

import json
import signal
from typing import NamedTuple

import jax
import numpy as np

from sequencematch.setup.build import Parts, build, make_plan, training_data
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.checkpoint_folder import saved_steps
from sequencematch.storage.metrics_log import MetricsLog, best_validation, read_records
from sequencematch.train import loop
from sequencematch.train.plan import Batches, Plan
from sequencematch.train.profiling import CLOCK
from sequencematch.train.stop_requests import StopRequests

CLONING, STEPS, REFRESH_EVERY = 4, 24, 3  # refreshes before steps 4, 7, ..., 22
VALIDATIONS = (9, 18, 24)
TINY = {
    "task": "jsonl",
    "data.train": 40,
    "data.validation": 8,
    "data.test": 8,
    "prompt_slots": 5,
    "max_actions": 6,
    "noise.max_cut": 1.0,
    "model.layers": 1,
    "model.d_model": 16,
    "model.heads": 4,
    "model.kv_heads": 2,
    "model.d_ff": 16,
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup": 2,
    "train.steps": STEPS,
    "train.batch_size": 8,
    "train.bc_steps": CLONING,
    "objective.alpha": 0.1,
    "rollout.every": REFRESH_EVERY,
    "rollout.rows": 8,
    "rollout.capacity": 16,
    "rollout.batch_size": 8,
    "log_every": 1,
    "evaluate.every": VALIDATIONS[0],
}


class TinyRun(NamedTuple):
    """The parts of a run, its compiled plan and its data."""

    parts: Parts
    plan: Plan
    episodes: Batches
    prompts: Batches


def make_tiny_run(spellings, changes=()):
    """The tiny run with some configuration keys changed."""
    config = defaults()
    config.update_from_flattened_dict(TINY | {"data.path": spellings} | dict(changes))
    check_config(config)
    parts = build(config)
    return TinyRun(parts, make_plan(parts), *training_data(parts))


class UncompiledStep:
    """A Python function in place of a jitted step; `compile_ahead` finds nothing to compile."""

    def __init__(self, step):
        self._step = step

    def __call__(self, *args):
        return self._step(*args)

    def lower(self, *args):
        """As of a jitted function."""
        return self

    def compile(self):
        """As of a lowered function."""
        return self

    def memory_analysis(self):
        """As of a compiled function that has no account of its memory."""


class Crash(Exception):
    """Stands for a kill: nothing in the package catches it."""


def crash():
    """Raises `Crash`; an event for `BatchesWithEvent`."""
    raise Crash


def request_stop(number=signal.SIGTERM):
    """Sends this process a real signal."""
    signal.raise_signal(number)


class BatchesWithEvent:
    """Batches; `event()` is called just before batch `at` is read."""

    def __init__(self, batches, at, event):
        self._batches, self._at, self._event = batches, at, event

    def __getitem__(self, i):
        if i == self._at:
            self._event()
        return self._batches[i]


def step_as_accuracy(state):
    """Stands for the figures on the validation set."""
    return {"accuracy/greedy": float(state.step)}


def train(
    tiny_run,
    folder,
    *,
    save_every,
    keep=2,
    resume=False,
    data=None,
    prompts=None,
    evaluate=step_as_accuracy,
    keep_best=False,
):
    """Trains in a folder, from the start or from its newest checkpoint; returns the last state."""
    parts, plan, seconds = tiny_run.parts, tiny_run.plan._replace(save_every=save_every), 0.0
    state, earlier_records = parts.initial(), []
    if resume:
        with Checkpoints(folder) as checkpoints:
            state, facts, _ = checkpoints.restore(parts.like)
        seconds, earlier_records = facts["seconds"], read_records(folder, int(state.step))
    saved, due = saved_steps(folder / "checkpoints"), range(0, STEPS + 1, save_every)
    best = best_validation(earlier_records, "accuracy/greedy", saved, due) if keep_best else None
    with (
        StopRequests() as stop_requests,
        Checkpoints(folder, keep, best=best[0] if best else None) as checkpoints,
        MetricsLog(folder, earlier_records) as log,
    ):
        facts = {"name": "tiny"}
        recorder = loop.Recorder(
            plan,
            checkpoints,
            log,
            stop_requests,
            evaluate,
            facts=facts,
            seconds=seconds,
            best=best,
            keep_best=keep_best,
        )
        if resume and keep_best:
            checkpoints.tidy()
        data, prompts = data or tiny_run.episodes, prompts or tiny_run.prompts
        return loop.train(plan, state, data, prompts, recorder)[0]


def records(folder):
    """Records of metrics.jsonl, without the fields that depend on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def bits(state):
    """The bytes of every array of a state, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in leaves}
