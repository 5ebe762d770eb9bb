"""What judges answers, as a configuration says."""

from types import SimpleNamespace

import numpy as np
import pytest

from sequencematch.data.tasks import JUDGES
from sequencematch.data.tokenizer import CharTokenizer
from sequencematch.setup.judges import answer_actions
from sequencematch.setup.recipe import make_mdp
from tests.data.doubling import TASK
from tests.setup.configs import valid_config_with


@pytest.mark.parametrize(("window", "stop_at", "ends"), [(8, 0, 1), (8, 5, 0), (0, 5, 1)])
def test_no_action_ends_answers_of_windows_that_stop_at_a_length(window, stop_at, ends):
    config = valid_config_with({"task": "text", "data.window": window, "evaluate.stop_at": stop_at})
    task = TASK._replace(**JUDGES["text"](config.data)._asdict())
    mdp = make_mdp(config, CharTokenizer("ab"))
    found = answer_actions(
        SimpleNamespace(task=task, config=config, recipe=SimpleNamespace(mdp=mdp))
    )
    gone = [] if ends else [mdp.eos]
    np.testing.assert_array_equal(np.flatnonzero(found.legal != mdp.legal), gone)
