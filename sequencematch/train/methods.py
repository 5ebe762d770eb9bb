"""The methods, as values: the action set and the training steps of each."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Method(NamedTuple):
    """What sets a method apart; everything else is equal.

    Attributes:
      edits: whether the configuration's edits are actions, and the data is noised to show their use.
      phases: names of `step.STEPS`, in order; the first of two ends at `train.bc_steps`.
      objective: maps the configuration's objective to the keys of it that the method overrides.
    """

    edits: bool
    phases: tuple[str, ...]
    objective: Callable[[ConfigDict], Mapping[str, Any]] = lambda objective: {}

    @property
    def clones(self) -> bool:
        """Whether a phase of imitation comes first, after which beta falls from 1."""
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
    # The divergence of `chi2_mixture` in closed form: SequenceMatch that needs no samples.
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
            # For chi2, phi(alpha r)/alpha = r - alpha r^2/4: r^2 gets the weight lambda.
            "divergence": "chi2",
            "alpha": 4 * objective.td_weight,
            # The policy's own trajectories have no weight, so no samples are drawn.
            "policy_weight": 0.0,
            "weighting": "uniform",
            "terminal": "zero",
        },
    ),
}
