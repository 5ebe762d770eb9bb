"""What is measured of a run, with stand-ins for what answers and what scores."""

from types import SimpleNamespace

import numpy as np
import pytest

from sequencematch.cli import figures
from sequencematch.data.task import Example
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.values import Scores
from tests.evaluate.answers import MDP, TASK, TOKENIZER, answer

EXAMPLES = [Example(f"{i}=", str(i)) for i in range(3)]


class OddDraws:
    """Answers whose every second one is right, scored so that the likelihood knows it."""

    def answers(self, params, examples, choice):
        self.asked = [(example.prompt, choice) for example in examples]
        for draw, example in enumerate(examples):
            yield Answer(example, [draw], "", draw % 2 == 1, True, 1)

    def score_answers(self, params, answers):
        for each in answers:
            ones = np.full(1, 5.0 * each.right + len(each.example.prompt))
            yield Scores(np.zeros(2), ones, ones, ones, ones, ones[0])


@pytest.mark.parametrize(("limit", "count"), [(2, 2), (50, 3)])
def test_scores_are_of_several_samples_of_the_policy_to_each_of_the_first_questions(
    monkeypatch, limit, count
):
    drawn, decodings = OddDraws(), []
    monkeypatch.setattr(
        figures, "make_generator", lambda parts, given: decodings.append(given) or drawn
    )
    parts = SimpleNamespace(
        config=SimpleNamespace(evaluate=SimpleNamespace(examples=limit, samples=4)),
        task=SimpleNamespace(splits={"test": EXAMPLES}),
        recipe=SimpleNamespace(objective=SimpleNamespace(gamma=0.9)),
    )
    checked = []
    found = figures.policy_auc(parts, drawn, None, lambda: checked.append(1))
    # None is the policy itself: no memory, no bias and no other temperature.
    assert decodings == [{"policy": None}]
    assert drawn.asked == [(f"{i}=", "policy") for i in range(count) for _ in range(4)]
    assert len(checked) == 2 * 4 * count  # of answers, and of their scores
    assert found["log_likelihood"] == {"pooled": 1.0, "within": 1.0}
    assert found["value_end"] == {"pooled": 0.5, "within": 0.5}


@pytest.mark.parametrize(("limit", "asked"), [(1, "0"), (2, "05"), (3, "036"), (50, "0123456789")])
def test_validation_asks_examples_from_all_over(monkeypatch, limit, asked):
    """The first ones may be the easy ones, or all of one article."""
    examples, drawn = [Example(f"{i}", str(i)) for i in range(10)], OddDraws()
    monkeypatch.setattr(figures, "measure", lambda metrics, answers: {"accuracy": len(answers)})
    parts = SimpleNamespace(
        config=SimpleNamespace(evaluate=SimpleNamespace(examples=limit)),
        task=SimpleNamespace(splits={"validation": examples}, judged_by="accuracy"),
        whole=lambda params: params,
        metrics=[],
    )
    state = SimpleNamespace(params=None)
    found = figures.validation_figures(parts, drawn, lambda: None, state)
    assert "".join(prompt for prompt, _ in drawn.asked) == asked
    assert found["accuracy/greedy"] == len(asked)


@pytest.mark.parametrize("has_edits", [False, True])
def test_real_texts_are_read_once_with_edits_and_without(monkeypatch, has_edits):
    """And with no more room than they take."""
    plain = MDP._replace(legal=MDP.legal & (MDP.pops == 0))
    actions, read, checked = MDP if has_edits else plain, [], []
    examples = [Example("b", "ab"), Example("ba", "abba", cut=True)]

    class Reader:
        """Among tokens alone an action has the probability 1/2, among all 1/4."""

        mdp = actions

        def score(self, params, prompts, actions):
            read.append(list(zip(prompts, map(TOKENIZER.decode, actions), strict=True)))
            for each in actions:
                n, halves = len(each), np.full(len(each), -np.log(2))
                among_all = 2 * halves if has_edits else halves
                yield Scores(np.zeros(n + 1), halves, halves, among_all, halves, 0.0)

    made = []
    monkeypatch.setattr(figures, "answer_actions", lambda _: actions)
    monkeypatch.setattr(figures, "make_scorer", lambda _, *asked: made.append(asked) or Reader())
    parts = SimpleNamespace(task=SimpleNamespace(splits={"test": examples}), tokenizer=TOKENIZER)
    found = figures.real_text_figures(parts, None, lambda: checked.append(1))
    assert {name: x["perplexity"] for name, x in found.items()} == pytest.approx(
        {"text": 2, "actions": 4 if has_edits else 2}
    )
    assert read == [[("b", "ab"), ("ba", "abba")]]
    assert [longest for _, longest in made] == [4]
    np.testing.assert_array_equal(made[0][0].legal, actions.legal)
    assert len(checked) == 2  # between texts a run may be asked to stop


class SomeCut:
    """Texts of which the limit on actions has cut every second one."""

    decodings = ("sampled",)

    def answers(self, params, examples, choice):
        for i, example in enumerate(examples):
            yield answer("b", "ab$" if i % 2 else "ab<", right=bool(i % 2))._replace(
                example=example
            )

    def score_answers(self, params, answers):
        for i, each in enumerate(answers):
            yield Scores(*[np.full(len(each.actions), float(i))] * 5, float(i))


@pytest.mark.parametrize("is_open", [False, True])
def test_texts_that_may_go_on_in_any_way_are_neither_right_nor_wrong(monkeypatch, is_open):
    monkeypatch.setattr(figures, "make_scorer", lambda parts: SomeCut())
    monkeypatch.setattr(figures, "real_text_figures", lambda *_: {})
    monkeypatch.setattr(figures, "policy_auc", lambda *_: {})
    parts = SimpleNamespace(
        config=SimpleNamespace(evaluate=SimpleNamespace(traces=0)),
        task=TASK._replace(is_open=is_open),
        tokenizer=TOKENIZER,
        metrics=[],
        recipe=SimpleNamespace(mdp=MDP),
    )
    test, _ = figures.evaluate_test_set(parts, None, lambda: None, SomeCut())
    found = test["sampled"]["return"]
    assert {x is None for x in found.values()} == {is_open}
    assert is_open == ("unfinished" in test["sampled"])
