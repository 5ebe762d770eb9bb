"""A run small enough to be cut anywhere and resumed many times."""

import json
import signal
from typing import NamedTuple

import jax
import numpy as np

from sequencematch.setup.build import Parts, build, make_plan, training_data
from sequencematch.setup.defaults import defaults
from sequencematch.setup.validate import validate
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.metrics_log import MetricsLog, read_records
from sequencematch.train import loop
from sequencematch.train.plan import Plan
from sequencematch.train.stop_requests import StopRequests

CLONING, STEPS, EVERY, LOOKS = 4, 24, 3, (9, 18, 24)  # refreshes before steps 4, 7, ..., 22
TINY = {
    "task": "jsonl",
    "data.train": 40,
    "data.validation": 8,
    "data.test": 8,
    "prompt_slots": 5,
    "max_actions": 6,
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
    "rollout.every": EVERY,
    "rollout.rows": 8,
    "rollout.capacity": 16,
    "rollout.batch_size": 8,
    "log_every": 1,
    "evaluate.every": LOOKS[0],
}


class Parts(NamedTuple):
    """A run and what is compiled for it."""

    run: Parts
    plan: Plan
    episodes: object
    prompts: object


def parts_of(spellings, changes=()):
    """The tiny run with some keys changed."""
    config = defaults()
    config.update_from_flattened_dict(TINY | {"data.path": spellings} | dict(changes))
    validate(config)
    run = build(config)
    return Parts(run, make_plan(run), *training_data(run))


class Plain:
    """A step in Python, of which nothing is compiled."""

    def __init__(self, step):
        self._step = step

    def __call__(self, *given):
        return self._step(*given)

    def lower(self, *given):
        """It is always ready."""
        return self

    def compile(self):
        """It is always ready."""


class Crash(Exception):
    """The power fails."""


def crash():
    raise Crash


def ask(number=signal.SIGTERM):
    """Somebody asks the run to leave: a real signal, to this process."""
    signal.raise_signal(number)


class At:
    """Batches; something happens when batch `at` is read."""

    def __init__(self, batches, at, happens):
        self._batches, self._at, self._happens = batches, at, happens

    def __getitem__(self, i):
        if i == self._at:
            self._happens()
        return self._batches[i]


def train(parts, folder, *, save_every, keep=2, resume=False, data=None, prompts=None, look=None):
    """Trains in a folder, from the start or its newest checkpoint; returns the last state."""
    run, plan, earlier = parts.run, parts.plan, 0.0
    state, kept = run.initial(), []
    if resume:
        with Checkpoints(folder) as checkpoints:
            state, facts, _ = checkpoints.restore(run.like)
        earlier, kept = facts["seconds"], read_records(folder, int(state.step))
    with (
        StopRequests() as stop_requests,
        Checkpoints(folder, keep) as checkpoints,
        MetricsLog(folder, kept) as log,
    ):
        plan = plan._replace(save_every=save_every)
        rest = (stop_requests, look or looked, {"name": "tiny"}, earlier)
        recorder = loop.Recorder(plan, checkpoints, log, *rest)
        data, prompts = data or parts.episodes, prompts or parts.prompts
        return loop.train(plan, state, data, prompts, recorder)[0]


def looked(state):
    """Stands for the look at the validation set."""
    return {"accuracy/greedy": float(state.step)}


def records(folder):
    """Records of metrics.jsonl, without what the clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "tokens_per_second", "time")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def bits(state):
    """Every array of a state by its path, as bytes."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in leaves}
