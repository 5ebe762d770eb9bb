"""The methods, as values: what each one learns from, and by which steps."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Method(NamedTuple):
    """What sets a method apart; everything else is equal.

    Attributes:
      edits: whether edit actions exist, and the data is noised so that they are shown.
      phases: names of `step.STEPS`, in order; the first of two ends at `train.bc_steps`.
      objective: the configuration's objective -> the keys of it that the method decides itself.
    """

    edits: bool
    phases: tuple[str, ...]
    objective: Callable[[ConfigDict], Mapping[str, Any]] = lambda objective: {}

    @property
    def clones(self) -> bool:
        """Whether a phase of imitation comes first, and beta falls from 1."""
        return len(self.phases) > 1

    @property
    def matches(self) -> bool:
        """Whether J is optimised at all."""
        return "matching" in self.phases


METHODS = {
    "mle": Method(edits=False, phases=("imitation",)),
    "unlikelihood": Method(edits=False, phases=("unlikelihood",)),
    "bc": Method(edits=True, phases=("imitation",)),
    "sequencematch": Method(edits=True, phases=("imitation", "matching")),
    # The mixture's divergence in closed form: SequenceMatch that draws no samples.
    "le_cam": Method(
        edits=True,
        phases=("imitation", "matching"),
        objective=lambda objective: {"divergence": "le_cam"},
    ),
    # TD-regularised maximum likelihood, -log pi(a|s) + lambda r^2 (arXiv 2409.01369).
    "iql_offline": Method(
        edits=False,
        phases=("matching",),
        objective=lambda objective: {
            "divergence": "chi2",
            "alpha": 4 * objective.td_weight,
            "policy_weight": 0.0,
            "weighting": "uniform",
            "terminal": "zero",
        },
    ),
}
