"""A run that compiles in seconds and is long enough to learn, and what is traced in it.

Jax runs the Python code of a jitted function once for each trace.
"""

from functools import wraps

from sequencematch.rollout import replay, sampler
from sequencematch.setup.build import build
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults
from sequencematch.train import step as steps
from tests.train import runs

CLONING, STEPS = 30, 60
SMALL = runs.TINY | {
    "max_actions": 8,
    "model.layers": 2,
    "model.d_model": 32,
    "model.d_ff": 32,
    "optimizer.warmup": 5,
    "train.steps": STEPS,
    "train.batch_size": 16,
    "train.bc_steps": CLONING,
    "rollout.every": 10,
    "rollout.rows": 8,
    "rollout.capacity": 16,
    "rollout.batch_size": 8,
    "evaluate.every": 50,
    "checkpoint.every": 50,
}


def build_small(spellings, changes):
    """The parts of the run, with some configuration keys changed."""
    config = defaults()
    config.update_from_flattened_dict(SMALL | {"data.path": spellings} | changes)
    check_config(config)
    return build(config)


# Functions that cost a pass through the network, or belong to sampling.
WATCHED = [
    (steps, "refresh"),
    (steps, "action_values"),
    (replay, "draw"),
    (sampler, "sample"),
]
CLONING_TRACE = ["imitation", "action_values"]
SAMPLING_TRACE = ["refresh", "sample"]
MATCHING_TRACE = ["matching", "draw", "action_values", "action_values"]
MATCHING_TRACE_WITHOUT_SAMPLES = ["matching", "action_values"]


def record_traces(monkeypatch):
    """The names of watched functions and steps, in the order in which they are traced from now on."""
    traced = []

    def record(name, function):
        @wraps(function)
        def run(*args, **options):
            traced.append(name)
            return function(*args, **options)

        return run

    for module, name in WATCHED:
        monkeypatch.setattr(module, name, record(name, getattr(module, name)))
    for name, step in steps.STEPS.items():
        monkeypatch.setitem(steps.STEPS, name, record(name, step))
    return traced
