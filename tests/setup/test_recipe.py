"""What a training step closes over is what the configuration says."""

import jax.numpy as jnp
import pytest

from sequencematch.core.objective import WEIGHTINGS, imitated_differences
from sequencematch.core.rewards import TERMINALS, stop_gradient
from sequencematch.setup import recipe
from sequencematch.setup.recipe import make_objective, make_settings
from sequencematch.train.mesh import make_mesh
from tests.setup.configs import valid_config_with


def objective_with(changes):
    config = valid_config_with(changes)
    return make_objective(config, make_settings(config))


def test_every_choice_of_a_configuration_reaches_the_objective():
    chosen = {"weighting": "uniform", "terminal": "zero", "next_value": "stopped"}
    chosen |= {"t_max": 7.0, "policy_weight": 0.25}
    J = objective_with({f"objective.{key}": x for key, x in chosen.items()})
    assert (J.weighting, J.terminal, J.t_max) == (WEIGHTINGS["uniform"], TERMINALS["zero"], 7.0)
    assert (J.next_value, J.policy_weight) == (stop_gradient, 0.25)


def test_steps_of_noise_may_be_left_out_and_values_bounded():
    changes = {"method": "le_cam", "noise.step": "skip", "objective.policy_weight": 0.0}
    assert objective_with(changes).weighting.cost is imitated_differences
    J = objective_with({"objective.bound": True, "objective.alpha": 0.5, "objective.gamma": 0.9})
    assert float(J.next_value(jnp.float32(1e9))) == pytest.approx(4 / (0.5 * 0.1))


@pytest.mark.parametrize(
    ("noise", "drawn"),
    [
        ({"noise.kind": "policy", "noise.eta": 0.1}, True),
        ({"noise.kind": "policy", "noise.eta": 0.0}, False),  # a pass for nothing
        ({"noise.kind": "random", "noise.eta": 0.1}, False),
    ],
)
def test_wrong_tokens_are_drawn_where_there_are_any(noise, drawn):
    config = valid_config_with(noise)
    made = recipe.make_recipe(config, None, None, make_mesh(), make_settings(config))
    assert made.hard_negatives == drawn
