"""What is measured of a run: on validation and test questions, of their answers and of real texts."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from flax import nnx

from sequencematch.data.episodes import clean_ids
from sequencematch.data.task import Example
from sequencematch.evaluate.accuracy import right_within
from sequencematch.evaluate.edits import edit_statistics, text_costs
from sequencematch.evaluate.generate import VALIDATED, Answer, Generator, deletion_flags
from sequencematch.evaluate.metrics import figure_intervals, measure
from sequencematch.evaluate.perplexity import perplexity, score_texts
from sequencematch.evaluate.values import Scorer, Scores, correlation, value_statistics
from sequencematch.setup.build import Parts
from sequencematch.setup.judges import answer_actions, make_generator, make_scorer
from sequencematch.train.state import TrainState

_T = TypeVar("_T")


def validation_figures(
    parts: Parts, generator: Generator, raise_if_asked: Callable[[], None], state: TrainState
) -> dict[str, float]:
    """What the run is judged by, on validation examples spread over all, by way of decoding.

    NAME/CHOICE, and its interval NAME/CHOICE_low and NAME/CHOICE_high if the task's metrics give one.

    Args:
      parts: the parts of the run.
      generator: makes the answers.
      raise_if_asked: called between answers; raises Interrupted if the run was asked to stop.
      state: the train state to validate.
    """
    known = parts.task.splits["validation"]
    # Not the first ones: a file may be in order of difficulty, and texts are in that of their corpus.
    count = min(parts.config.evaluate.examples, len(known))
    examples = [known[i * len(known) // count] for i in range(count)]
    figures, name = {}, parts.task.judged_by
    params = parts.whole(state.params)
    for choice in VALIDATED:
        answers = answer_all(generator, params, examples, choice, raise_if_asked)
        found = measure(parts.metrics, answers)
        figures[f"{name}/{choice}"] = found[name]
        figures |= {f"{name}/{choice}_{end}": found[end] for end in ("low", "high") if end in found}
    return figures


def evaluate_test_set(
    parts: Parts,
    params: nnx.State,
    raise_if_asked: Callable[[], None],
    generator: Generator | None = None,
) -> tuple[dict[str, dict], list[dict]]:
    """Returns (figures of each way of decoding the test set, traces of some answers)."""
    examples = parts.task.splits["test"]
    generator, scorer = generator or make_generator(parts), make_scorer(parts)
    test, traces, all_answers = {}, [], {}
    for choice in generator.decodings:
        answers = answer_all(generator, params, examples, choice, raise_if_asked)
        all_answers[choice] = answers
        scores = collect(scorer.score_answers(params, answers), raise_if_asked)
        returns = np.stack([score.recovered_return for score in scores])
        test[choice] = measure(parts.metrics, answers) | {
            "edits": edit_statistics(parts.recipe.mdp, answers, parts.task, parts.tokenizer),
            # Of texts that may go on in any way none is right or wrong.
            "return": correlation(returns, [parts.task.is_open or a.right for a in answers]),
        }
        if parts.task.is_open:
            test[choice] |= open_figures(parts, answers)
        chosen = choose_traces(parts, answers)
        traces += [trace_record(parts, choice, answers[i], scores[i]) for i in chosen]
    if parts.task.is_open:
        test["sampled"]["real_text"] = real_text_figures(parts, params, raise_if_asked)
        return test, traces
    # Retries cost actions: every way is also given what each of the others takes on average.
    lengths = [[a.taken for a in answers] for answers in all_answers.values()]
    budgets = sorted({math.ceil(sum(each) / len(each)) for each in lengths})
    for choice, answers in all_answers.items():
        test[choice]["within"] = right_within(answers, budgets)
    test["sampled"]["auc"] = policy_auc(parts, scorer, params, raise_if_asked)
    return test, traces


def open_figures(parts: Parts, answers: Sequence[Answer]) -> dict[str, Any]:
    """What is said of texts that may go on in any way: what they cost, and how sure the figures are."""
    intervals = figure_intervals(parts.metrics, answers)
    judged = dict(zip(("low", "high"), intervals.get(parts.task.judged_by, ()), strict=False))
    return text_costs(parts.recipe.mdp, answers) | {"intervals": intervals} | judged


def real_text_figures(
    parts: Parts, params: nnx.State, raise_if_asked: Callable[[], None]
) -> dict[str, dict]:
    """Perplexity of the test texts with edits masked, and of the expert's actions among all.

    No action ends a text that is a window, as in answers.
    """
    examples = [*parts.task.splits["test"]]
    longest = max(len(clean_ids(parts.tokenizer, example)) for example in examples)
    scorer = make_scorer(parts, answer_actions(parts), longest)
    found = collect(score_texts(scorer, params, parts.tokenizer, examples), raise_if_asked)
    return {
        "text": perplexity(examples, [scores.text_log_probs for scores in found]),
        "actions": perplexity(examples, [scores.log_probs for scores in found]),
    }


def policy_auc(
    parts: Parts, scorer: Scorer, params: nnx.State, raise_if_asked: Callable[[], None]
) -> dict[str, dict[str, float | None]]:
    """How well scores tell right answers from wrong ones, of the answers of `policy_draws`."""
    scores, answers, questions = policy_draws(parts, scorer, params, raise_if_asked)
    right = [answer.right for answer in answers]
    return value_statistics(scores, right, questions, parts.recipe.objective.gamma)


def policy_draws(
    parts: Parts, scorer: Scorer, params: nnx.State, raise_if_asked: Callable[[], None]
) -> tuple[list[Scores], list[Answer], list[int]]:
    """(Scores, answer, number of its question) of several answers to each question.

    They are drawn from the policy itself, whatever the configuration says of decoding; they end as all
    answers do, so that in windows of text no action is `<eos>`. Scores are of all actions, with it.
    """
    c, examples = parts.config.evaluate, parts.task.splits["test"]
    questions = [i for i in range(min(c.examples, len(examples))) for _ in range(c.samples)]
    generator = make_generator(parts, {"policy": None})
    asked = [examples[i] for i in questions]
    answers = answer_all(generator, params, asked, "policy", raise_if_asked)
    scores = collect(scorer.score_answers(params, answers), raise_if_asked)
    return scores, answers, questions


def answer_all(
    generator: Generator,
    params: nnx.State,
    examples: Sequence[Example],
    choice: str,
    raise_if_asked: Callable[[], None],
) -> list[Answer]:
    """The answers to examples, in order; raises Interrupted if the run is asked to stop."""
    return collect(generator.answers(params, examples, choice), raise_if_asked)


def collect(found: Iterable[_T], raise_if_asked: Callable[[], None]) -> list[_T]:
    """What an iterator finds; raises Interrupted between two if the run is asked to stop."""
    collected = []
    for each in found:
        raise_if_asked()
        collected.append(each)
    return collected


def choose_traces(parts: Parts, answers: Sequence[Answer]) -> list[int]:
    """The answers that the report shows: up to half of them with edits, or more if others are few."""
    count, pops = parts.config.evaluate.traces, parts.recipe.mdp.pops
    # Random answers would show few edits, which are what a reader wants to see.
    edits = [any(pops[action] for action in a.actions) for a in answers]
    edited = [i for i, uses in enumerate(edits) if uses]
    plain = [i for i, uses in enumerate(edits) if not uses]
    edited = edited[: max(count // 2, count - len(plain))]
    return [*edited, *plain[: count - len(edited)]]


def trace_record(parts: Parts, choice: str, answer: Answer, scores: Scores) -> dict[str, Any]:
    """One answer as a line of traces.jsonl, which the report shows.

    Args:
      parts: the parts of the run.
      choice: the way to answer.
      answer: the answer.
      scores: V before each action and its reward, which are rounded here.
    """
    record = {
        "decode": choice,
        "prompt": answer.example.prompt,
        "answer": " or ".join(answer.example.references),
        "actions": parts.tokenizer.symbols(answer.actions),
        "deleted": deletion_flags(parts.recipe.mdp, answer.actions),
        "values": [round(float(x), 3) for x in scores.v[:-1]],
        "rewards": [round(float(x), 3) for x in scores.rewards],
        "text": answer.text,
    }
    # Of texts that may go on in any way none is right or wrong.
    return record if parts.task.is_open else record | {"right": answer.right}
