"""Plans of which nothing is compiled."""

from sequencematch.train import mesh as meshes
from sequencematch.train.plan import Phase, Plan
from tests.train.runs import UncompiledStep

SLOTS, ROWS = 7, 3


def make_plan(*phases, every=1, log=1, evaluate=1, save=1, refresh=None):
    """A plan with a Python function for its refresh."""
    sharding = meshes.batch_sharding(meshes.make_mesh(1, 1))
    refresh = refresh and UncompiledStep(refresh)
    return Plan(phases, refresh, SLOTS, every, ROWS, log, evaluate, save, 0, sharding)


def make_phase(name, until, samples=False, passes=2, step=None, flops=0):
    """A phase with a Python function for its step."""
    return Phase(name, step and UncompiledStep(step), until, samples, passes, flops)
