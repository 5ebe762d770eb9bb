"""What the runs of these tests share, for time: real runs are processes of their own.

A run traces and lowers some twenty programs, which takes longer than all its steps. Runs whose
programs are equal use those of the first, and so it is with the drawings of their reports. What is
compiled and drawn is tested elsewhere (tests/train, tests/evaluate); here it is what commands do.
"""

import contextlib
import json

import numpy as np
import pytest

from sequencematch.evaluate import plots
from sequencematch.evaluate.generate import Generator
from sequencematch.evaluate.values import Scorer
from sequencematch.setup import build, judges
from sequencematch.setup.defaults import flatten
from sequencematch.train.plan import Program
from sequencematch.train.profiling import CLOCK

# Keys that no compiled step depends on (of the seed, tests/train/test_methods.py says so).
FREE = ("data.", "evaluate.", "checkpoint.", "log_every", "init", "seed")
PROGRAMS = {}  # what decides them -> programs


def mdp_key(mdp):
    """A decision process as a value that can be compared."""
    return tuple(x.tobytes() if isinstance(x, np.ndarray) else x for x in mdp)


def compile_steps(make, settings, frozen, mesh, shardings):
    """As of train.plan, once for all equal configurations."""
    config, _, mdp, _ = make.args
    keys = [(k, repr(v)) for k, v in flatten(config).items() if not k.startswith(FREE)]
    key = ("steps", *sorted(keys), mdp_key(mdp), mesh)
    if key not in PROGRAMS:
        PROGRAMS[key] = real_compile_steps(make, settings, frozen, mesh, shardings)
    steps, refresh = PROGRAMS[key]
    steps = {name: Program(step.function, settings, frozen) for name, step in steps.items()}
    return steps, Program(refresh.function, settings, frozen)


real_compile_steps = build.compile_steps


class SharedGenerator(Generator):
    """Generators of equal answers share their programs."""

    def __init__(self, graph, mdp, *args, **kwargs):
        super().__init__(graph, mdp, *args, **kwargs)
        names = ("prompt_slots", "max_actions", "rows", "sharding", "decodings", "stop_at")
        key = ("answers", graph, mdp_key(mdp), *(repr(kwargs[name]) for name in names))
        self._sample = PROGRAMS.setdefault(key, self._sample)


class SharedScorer(Scorer):
    """Scorers of equal scores share their program."""

    def __init__(self, graph, mdp, tokenizer, **kwargs):
        super().__init__(graph, mdp, tokenizer, **kwargs)
        sizes = (repr(kwargs[name]) for name in ("slots", "rows", "sharding"))
        objective = kwargs["objective"]
        key = ("scores", graph, mdp_key(mdp), *sizes, objective.terminal, objective.gamma)
        self._score = PROGRAMS.setdefault(key, self._score)


def draw(panel, keys, *records):
    """As of evaluate.plots, once for all equal curves: a page's take longer than a short run."""
    hidden = set(CLOCK) - set(keys)
    shown = [[{k: x for k, x in r.items() if k not in hidden} for r in rs] for rs in records]
    key = ("drawing", repr(panel), *keys, json.dumps(shown))
    if key not in PROGRAMS:
        PROGRAMS[key] = real_draw(panel, keys, *records)
    return PROGRAMS[key]


real_draw = plots._svg


@contextlib.contextmanager
def shared_programs():
    """Within it, runs share their programs and drawings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "compile_steps", compile_steps)
        patch.setattr(judges, "Generator", SharedGenerator)
        patch.setattr(judges, "Scorer", SharedScorer)
        patch.setattr(plots, "_svg", draw)
        yield
