import numpy as np
import pytest
from flax import nnx

from sequencematch.core import mdp
from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import Objective
from sequencematch.data.tokenizer import BKSPC, BOS, EOS, PAD
from sequencematch.evaluate.values import Scorer, correlation
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from tests.evaluate.answers import PLAIN, answer


def test_returns_do_not_depend_on_the_number_of_rows():
    process = mdp.make(PLAIN.vocab_size, eos=EOS, pad=PAD, never=[BOS], edits={BKSPC: 1})
    sizes = TransformerConfig(PLAIN.vocab_size, 1, 16, 2, 1, 16)
    graph, params = nnx.split(Transformer(sizes, nnx.Rngs(5)))
    objective = Objective(DIVERGENCES["chi2_mixture"], alpha=0.1, gamma=0.9)
    answers = [answer("ab", actions) for actions in ("ab$", "ac<b$", "b<c", "$", "ab$")]
    one, two = (
        Scorer(graph, process, PLAIN, slots=9, rows=rows, objective=objective).returns(
            params, answers
        )
        for rows in (2, 3)
    )
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert one.shape == (5,) and one[0] == pytest.approx(one[4]) and len(set(one[:4])) == 4


def test_correlation_is_by_rank_and_its_sign_is_that_of_right_answers():
    right = [True, False, True, False]
    returns = np.array([100.0, 1.0, 3.0, 2.0])
    found = correlation(returns, right)
    assert found["spearman"] == pytest.approx(2 / np.sqrt(5))  # ranks 4, 1, 3, 2
    assert (found["right"], found["wrong"]) == (51.5, 1.5)
    assert correlation(np.exp(returns / 50), right)["spearman"] == found["spearman"]
    assert correlation(-returns, right)["spearman"] == pytest.approx(-found["spearman"])


@pytest.mark.parametrize("right", [True, False])
def test_correlation_is_none_if_all_answers_are_alike(right):
    found = correlation(np.array([1.0, 2.0]), [right] * 2)
    assert found == {"spearman": None, "p_value": None, "right": None, "wrong": None}
