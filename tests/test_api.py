"""`sequencematch.load`: answers and scores from Python are those of the command line."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import sequencematch
from sequencematch import api
from tests.command_line.command import PREVIOUS_SAVE
from tests.train.runs import STEPS

PROMPTS = ["abc>", "dab>", "bad>"]


@pytest.fixture(scope="module")
def folder(finished_run):
    """The work directory of a finished run."""
    return finished_run


@pytest.fixture(scope="module")
def model(folder):
    return sequencematch.load(folder)


def test_answers_are_those_of_the_runs_own_evaluation(folder, model):
    traces = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    greedy = [trace for trace in traces if trace["decode"] == "greedy"]
    answers = model.answer([trace["prompt"] for trace in greedy])
    assert greedy
    assert [a.text for a in answers] == [trace["text"] for trace in greedy]
    assert [a.symbols for a in answers] == [trace["actions"] for trace in greedy]


def test_what_is_compiled_is_kept(model, monkeypatch):
    """Of 3 and of 4 prompts the programs are the same; each new generator would compile its own."""
    made, names = [], ("make_generator", "make_scorer")
    for name in names:
        make = getattr(api, name)
        monkeypatch.setattr(api, name, lambda *a, make=make: made.append(make) or make(*a))
    fresh = api.Model(model._parts, model._params, model.step)
    first, score = fresh.answer(PROMPTS), fresh.score(PROMPTS, ["cba", "bad", "dab"])
    assert len(made) == len(names)
    assert fresh.answer([*PROMPTS, "aab>"])[:3] == first == fresh.answer(PROMPTS)
    assert fresh.score(PROMPTS[:1], ["cba"])[0].v == pytest.approx(score[0].v, rel=1e-5)
    assert len(made) == len(names) + 1  # of one row


@pytest.mark.stress
def test_a_run_of_many_devices_answers_on_one_and_on_a_mesh(folder, model, tmp_path):
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    saved = json.loads((elsewhere / "config.json").read_text())
    saved["config"]["mesh"]["data"] = 1024
    saved["config"]["train"]["batch_size"] = 9  # which need not divide: nothing is trained
    (elsewhere / "config.json").write_text(json.dumps(saved))
    alone, many = (sequencematch.load(elsewhere, mesh=mesh) for mesh in (None, {"data": 2}))
    assert alone.answer(PROMPTS) == model.answer(PROMPTS)
    texts = [[answer.text for answer in each.answer(PROMPTS)] for each in (alone, many)]
    assert texts[0] == texts[1]


@pytest.mark.stress
def test_a_repeated_prompt_gets_independent_answers_that_do_not_depend_on_the_batch(model):
    answers = model.answer(["abc>"] * 12, decode="sampled")
    assert len({tuple(a.symbols) for a in answers}) > 6
    assert model.answer(["abc>"] * 3, decode="sampled") == answers[:3]


def test_scores_obey_their_definitions(model):
    gamma = model.config.objective.gamma
    answer = ["c", "d", "<bkspc>", "b", "a", "<eos>"]
    (score,) = model.score(["abc>"], [answer])
    assert score.v.shape == (7,) and score.q.shape == score.rewards.shape == (6,)
    np.testing.assert_allclose(score.rewards, score.q - gamma * score.v[1:], rtol=1e-5)
    np.testing.assert_allclose(score.log_probs, score.q - score.v[:-1], rtol=1e-5)
    kappa = gamma ** np.arange(7)
    total = np.sum(kappa[:6] * score.rewards) + kappa[6] * score.v[6]
    np.testing.assert_allclose(score.recovered_return, total, rtol=1e-5)
    # The text after the deletion is an earlier one, so its value is, too.
    assert score.v[1] == score.v[3] != score.v[2]


def test_a_text_is_its_symbols_and_an_end(model):
    (text,), (symbols,) = (model.score(["abc>"], [answer]) for answer in ("cba", [*"cba", "<eos>"]))
    for one, other in zip(text, symbols, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.stress
def test_scores_do_not_depend_on_the_batch(model):
    answers = ["cba", "bad", ["d"]]
    together = model.score(PROMPTS, answers)
    for prompt, answer, score in zip(PROMPTS, answers, together, strict=True):
        (alone,) = model.score([prompt], [answer])
        for one, other in zip(alone, score, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert model.score([], []) == model.answer([]) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.answer("abc>"), "prompts must be a list of texts"),
        (
            lambda m: m.answer(["abc>"], decode="beam"),
            "'beam' is none of greedy, sampled",
        ),
        (lambda m: m.answer(["xyz>"]), "not in the alphabet"),
        (lambda m: m.answer(["abcabc>"]), "is too long"),
        (lambda m: m.score(["abc>"], []), "1 prompts, but 0 answers"),
        (lambda m: m.score(["abc>"], ["xy"]), "not in the alphabet"),
        (lambda m: m.score(["abc>"], [["a", "<undo>"]]), "unknown symbols"),
        (lambda m: m.score(["abc>"], [["<pad>"]]), "are no actions"),
        (lambda m: m.score(["abc>"], [["<eos>", "a"]]), "only at its end"),
        (lambda m: m.score(["abc>"], [[]]), "needs an action"),
        (lambda m: m.score(["abc>"], ["a" * 9]), "at most evaluate.max_actions=8 fit"),
        (lambda m: m.score(["abcabc>"], ["a"]), "is too long"),
        (lambda m: m.chat([{"role": "user", "content": "a"}]), "did not learn from chats"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(model, call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call(model)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        sequencematch.load(tmp_path)


@pytest.mark.stress
def test_a_checkpoint_can_be_chosen(folder):
    assert sequencematch.load(folder, checkpoint=PREVIOUS_SAVE).step == PREVIOUS_SAVE
    assert sequencematch.load(folder, checkpoint="best").step == STEPS
    with pytest.raises(ValueError, match="no checkpoint of step 7"):
        sequencematch.load(folder, checkpoint=7)
    with pytest.raises(ValueError, match="must be newest, best, or a step"):
        sequencematch.load(folder, checkpoint="last")


def test_importing_the_package_imports_no_jax():
    code = "import sys, sequencematch; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["config", "run", "workdir"])
def test_an_old_name_says_where_it_went(name):
    with pytest.raises(ImportError, match=r"has moved to \w+\.\w+: see CHANGELOG\.md") as refusal:
        getattr(sequencematch, name)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_name_that_never_was_is_an_attribute_error():
    name = "nothing"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(sequencematch, name)
