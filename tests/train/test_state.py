"""The recipe that a configuration makes for the steps."""

import pytest

from sequencematch.setup.defaults import defaults
from sequencematch.setup.recipe import make_recipe, make_settings
from sequencematch.train.mesh import make_mesh


@pytest.mark.parametrize("bc_steps", [0, 30])
def test_beta_is_one_until_matching_begins_and_falls_linearly_to_beta_end(bc_steps):
    config = defaults()
    config.optimizer.warmup = 5
    config.train.steps, config.train.bc_steps, config.train.beta_end = 50, bc_steps, 0.3
    beta = make_recipe(config, None, None, make_mesh(1, 1), make_settings(config)).beta
    assert [float(beta(i)) for i in range(bc_steps + 1)] == [1.0] * (bc_steps + 1)
    assert float(beta((bc_steps + 50) // 2)) == pytest.approx((1 + 0.3) / 2)
    falls = [float(beta(i) - beta(i + 1)) for i in range(bc_steps, 50)]
    assert falls == pytest.approx([0.7 / (50 - bc_steps)] * (50 - bc_steps), rel=1e-4)
    assert float(beta(50)) == pytest.approx(0.3)
