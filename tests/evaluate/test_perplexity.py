"""Perplexity of real text by the model itself, from the probabilities of its actions."""

import math

import numpy as np
import pytest

from sequencematch.data.task import Example
from sequencematch.evaluate.perplexity import perplexity, score_texts
from sequencematch.evaluate.values import Scores
from tests.evaluate.answers import EOS, MDP, PLAIN


class Uniform:
    """Every action has the probability 1/8, or another."""

    def __init__(self, mdp=MDP, nats=math.log(8)):
        self.mdp, self.nats = mdp, nats

    def score(self, params, prompts, actions):
        for each in actions:
            log_probs = np.full(len(each), -self.nats)
            yield Scores(np.zeros(len(each) + 1), *[log_probs] * 4, np.float32(0))


def measure(scorer, examples):
    scores = score_texts(scorer, None, PLAIN, examples)
    return perplexity(examples, [each.log_probs for each in scores])


def test_it_is_the_number_of_equally_likely_actions():
    """An `<eos>` counts where a text has one."""
    examples = [Example("a>", "abc"), Example("", "ab", cut=True)]
    found = measure(Uniform(), examples)
    assert found["perplexity"] == pytest.approx(8) and found["actions"] == 6
    assert found["nats_per_character"] == pytest.approx(6 * math.log(8) / 5)
    assert found["intervals"]["perplexity"] == pytest.approx((8, 8))
    # The texts have 4/3 and 2/2 actions a character.
    low, high = found["intervals"]["nats_per_character"]
    assert low < found["nats_per_character"] < high


def test_one_that_no_number_is_large_enough_for_is_none():
    """The network has diverged, and the other results are kept."""
    examples = [Example("a>", "abc"), Example("", "ab", cut=True)]
    found = measure(Uniform(nats=720.0), examples)
    assert found["perplexity"] is None and "perplexity" not in found["intervals"]
    assert found["nats_per_character"] == pytest.approx(6 * 720 / 5)


def test_no_action_ends_a_text_where_none_may():
    legal = MDP.legal & (np.arange(len(MDP.legal)) != EOS)
    examples = [Example("a>", "abc"), Example("", "ab", cut=True)]
    found = measure(Uniform(MDP._replace(legal=legal)), examples)
    assert found["actions"] == 5


class Uneven(Uniform):
    """Text i has i nats an action."""

    def score(self, params, prompts, actions):
        for nats, each in enumerate(actions, 1):
            log_probs = np.full(len(each), -float(nats))
            yield Scores(np.zeros(len(each) + 1), *[log_probs] * 4, np.float32(0))


def test_it_weighs_actions_and_not_texts():
    examples = [Example("a>", "abc"), Example("", "a", cut=True)]
    found = measure(Uneven(), examples)
    assert found["perplexity"] == pytest.approx(math.exp((4 * 1 + 1 * 2) / 5))
