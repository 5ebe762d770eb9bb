import random

import pytest

from sequencematch.data.checkers import accept_anything
from sequencematch.data.task import Example
from sequencematch.evaluate.edits import (
    Edits,
    count_edits,
    edit_statistics,
    possible_texts,
    text_costs,
)
from tests.evaluate.answers import EOS, MDP, POPS, TASK, TOKENIZER, answer, ids


def is_beginning(*answers):
    """A text, which may end in `<eos>`, is possible if one of the answers begins with it."""
    return lambda text: any(text == ids(one + "$")[: len(text)] for one in answers)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        # nothing wrong
        ("abc$", Edits()),
        ("ab", Edits()),
        ("", Edits()),
        # deleting from an empty text
        ("<<abc$", Edits()),
        # a wrong token: left, deleted, deleted and fixed, at the end of the text
        ("abb$", Edits(errors=1)),
        ("abb<", Edits(deletions=1, deleted_wrong=1, errors=1, errors_deleted=1)),
        ("abb<c$", Edits(1, 1, 1, 1, 1)),
        ("b<abc$", Edits(1, 1, 1, 1, 1)),
        ("abca<$", Edits(1, 1, 1, 1, 1)),
        # deleted, then wrong again; then right
        ("abb<a$", Edits(1, 1, 2, 1, 0)),
        ("abb<a<c$", Edits(2, 2, 2, 2, 1)),
        # only the first of a run of wrong tokens is an error; it is gone when all are
        ("aaa<$", Edits(1, 1, 1, 0, 0)),
        ("aaa<<bc$", Edits(2, 2, 1, 1, 1)),
        ("aaa2bc$", Edits(1, 1, 1, 1, 1)),
        # right tokens after a wrong one are no errors, and deleting them fixes nothing
        ("bbc<$", Edits(1, 1, 1, 0, 0)),
        # a right token deleted
        ("ab<bc$", Edits(deletions=1)),
        ("abb<<bc$", Edits(2, 1, 1, 1, 1)),
        # and with it a wrong one: fixed once the right one is in its place
        ("abb2bc$", Edits(1, 1, 1, 1, 1)),
        ("abb2b", Edits(1, 1, 1, 1, 0)),
        ("abb2a$", Edits(1, 1, 2, 1, 0)),
        ("abbRabc$", Edits(1, 1, 1, 1, 1)),
        ("abbRab$", Edits(1, 1, 2, 1, 0)),
        ("abbR", Edits(1, 1, 1, 1, 0)),
        ("abbRRabc$", Edits(1, 1, 1, 1, 1)),
        ("abbRaRabc$", Edits(2, 1, 1, 1, 1)),
        ("abbRcRabc$", Edits(2, 2, 2, 2, 1)),
        ("aRabc$", Edits(deletions=1)),
        # the text ends too early, too late, or with a mistake in it
        ("ab$", Edits(errors=1)),
        ("$", Edits(errors=1)),
        ("abca$", Edits(errors=1)),
        ("ba$", Edits(errors=1)),
    ],
)
def test_counts_are_those_by_hand(actions, expected):
    example = Example("", "abc")
    found = count_edits(MDP, ids(actions), possible_texts(TASK, TOKENIZER, MDP, example))
    assert found._replace(deleted_right=0) == expected


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ("cb$", Edits()),
        ("abc$", Edits()),
        ("ab$", Edits(errors=1)),  # where an answer goes on, but none ends
        ("abca$", Edits(errors=1)),
        # fixed by the token of either answer
        ("b<abc$", Edits(1, 1, 1, 1, 1)),
        ("b<cb$", Edits(1, 1, 1, 1, 1)),
        # deleted with the right token below it, and another answer written
        ("abbRcb$", Edits(1, 1, 1, 1, 1, deleted_right=1)),
        ("abbRca$", Edits(1, 1, 2, 1, 0, deleted_right=1)),
        ("ab2cb$", Edits(deletions=1, deleted_right=1)),
        ("abb<c$", Edits(1, 1, 1, 1, 1)),
    ],
)
def test_of_several_right_answers_each_is_right(actions, expected):
    task = TASK._replace(
        check=lambda example, text: text in ("abc", "cb"),
        possible=lambda example, text: "abc".startswith(text) or "cb".startswith(text),
    )
    is_possible = possible_texts(task, TOKENIZER, MDP, Example("", "abc"))
    assert count_edits(MDP, ids(actions), is_possible) == expected


def test_of_several_references_the_nearest_is_compared_with():
    """A text is wrong when no reference begins with it, whichever was the nearest before."""
    for seed in range(1000):
        rng = random.Random(seed)
        actions, references = draw_actions(rng), tuple(draw_answers(rng, 3))
        example = Example("", references[0], references)
        is_possible = possible_texts(TASK, TOKENIZER, MDP, example)
        assert count_edits(MDP, actions, is_possible) == count_edits(
            MDP, actions, is_beginning(*references)
        )


def test_what_follows_a_cut_reference_is_no_error():
    cut = possible_texts(TASK, TOKENIZER, MDP, Example("", "ab", cut=True))
    assert [cut(ids(text)) for text in ("", "a", "ab", "abc", "ab$", "b", "ac")] == [True] * 5 + [
        False
    ] * 2


def count_slowly(actions, is_possible):
    """The same counts from the whole history of texts, found step by step."""
    texts = [[]]
    for action in actions:
        text = list(texts[-1])
        for _ in range(POPS.get(action, 0)):
            if text:
                text.pop()
        texts.append(text if action in POPS else [*text, action])
    right = [is_possible(text) for text in texts]
    steps = list(zip(actions, texts, texts[1:], right, right[1:], strict=False))
    deleting = [step for step in steps if len(step[2]) < len(step[1])]
    fixed, gap = 0, None
    for action, before, after, was, now in steps:
        if len(after) < len(before):
            beginnings = [is_possible(before[: n + 1]) for n in range(len(before))]
            gap = beginnings.index(False) if now and not was else gap
        elif action not in POPS:
            fixed += now and gap == len(before)
            gap = None if gap == len(before) or not now else gap
    return Edits(
        deletions=len(deleting),
        deleted_wrong=sum(not was for *_, was, _ in deleting),
        errors=sum(was and not now for *_, was, now in steps),
        errors_deleted=sum(now and not was for *_, was, now in steps),
        errors_mended=fixed,
        deleted_right=sum(
            is_possible(before[: len(after) + 1]) for _, before, after, *_ in deleting
        ),
    )


def draw_actions(rng):
    actions = "".join(rng.choices("abcabc<<<2R", k=rng.randrange(12)))
    return ids(actions) + [EOS] * rng.randrange(2)


def draw_answers(rng, count):
    return ["".join(rng.choices("abc", k=rng.randrange(4))) for _ in range(count)]


@pytest.mark.parametrize("answers", [1, 3])
def test_counts_are_those_of_a_slow_oracle(answers):
    found = set()
    for seed in range(3000):
        rng = random.Random(seed)
        actions, right = draw_actions(rng), draw_answers(rng, answers)
        counts = count_edits(MDP, actions, is_beginning(*right))
        assert counts == count_slowly(actions, is_beginning(*right)), (actions, right)
        found.add(counts)
    assert len(found) > 50


def test_reference_alone_is_right_unless_the_task_says_what_is_possible():
    said = TASK._replace(possible=lambda example, text: example.completion.startswith(text))
    for seed in range(1000):
        rng = random.Random(seed)
        actions, (completion,) = draw_actions(rng), draw_answers(rng, 1)
        example = Example("", completion)
        one, other = (possible_texts(task, TOKENIZER, MDP, example) for task in (TASK, said))
        counts = count_edits(MDP, actions, one)
        assert counts == count_edits(MDP, actions, other)
        assert counts == count_edits(MDP, actions, is_beginning(completion))


def test_shares_are_of_all_answers_together():
    answers = [answer("ab", "ab$", True), answer("ab", "ac<b$", True), answer("ab", "b<c", False)]
    assert edit_statistics(MDP, answers, TASK, TOKENIZER) == {
        "answers": 2 / 3,
        "deletions": 2,
        "per_action": 2 / 11,
        "deleted_wrong": 1.0,
        "deleted_right": 0.0,
        "errors": 3,
        "errors_deleted": 2 / 3,
        "errors_mended": 1 / 3,
    }


def test_shares_of_nothing_are_none():
    found = edit_statistics(MDP, [answer("ab", "ab$", True)], TASK, TOKENIZER)
    shares = ("deleted_wrong", "errors_deleted", "errors_mended")
    assert [found[share] for share in shares] == [None] * 3
    assert (found["answers"], found["per_action"], found["errors"]) == (0, 0, 0)


def test_edits_are_counted_apart_from_what_survives():
    found = text_costs(MDP, [answer("ab", actions) for actions in ("abc<<b$", "c2<ab", "R")])
    assert found == {"tokens": 4 / 3, "actions": 13 / 3, "edit_actions": 5 / 3, "unfinished": 2}


@pytest.mark.parametrize(
    ("is_open", "possible"),
    [(True, None), (True, lambda example, text: True), (False, accept_anything)],
)
def test_nothing_is_right_or_wrong_where_a_text_may_go_on_in_any_way(is_open, possible):
    task = TASK._replace(is_open=is_open, possible=possible)
    found = edit_statistics(MDP, [answer("ab", "ac<b$"), answer("ab", "c<ab$")], task, TOKENIZER)
    assert found["answers"] == 1
    kinds = ("deleted_right", "deleted_wrong", "errors", "errors_deleted", "errors_mended")
    assert [found[kind] for kind in kinds] == [None] * 5
