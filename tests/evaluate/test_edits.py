import random

import pytest

from sequencematch.data.tokenizer import EOS
from sequencematch.evaluate.edits import Edits, count_edits, edit_statistics
from tests.evaluate.answers import MDP, POPS, TOKENIZER, answer, ids


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
        ("abb<<bc$", Edits(2, 1, 1, 1, 0)),
        # and with it a wrong one: fixed once the right one is in its place
        ("abb2bc$", Edits(1, 1, 1, 1, 1)),
        ("abb2b", Edits(1, 1, 1, 1, 0)),
        ("abb2a$", Edits(1, 1, 2, 1, 0)),
        ("abbRabc$", Edits(1, 1, 1, 1, 1)),
        ("abbRab$", Edits(1, 1, 2, 1, 0)),
        ("abbR", Edits(1, 1, 1, 1, 0)),
        ("abbRRabc$", Edits(1, 1, 1, 1, 1)),
        ("abbRaRabc$", Edits(2, 1, 1, 1, 0)),
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
    assert count_edits(MDP, ids(actions), ids("abc$")) == expected


def count_slowly(actions, reference):
    """The same counts from the whole history of texts, found step by step."""
    texts = [[]]
    for action in actions:
        text = list(texts[-1])
        for _ in range(POPS.get(action, 0)):
            if text:
                text.pop()
        texts.append(text if action in POPS else [*text, action])
    right = [text == reference[: len(text)] for text in texts]
    steps = list(zip(actions, texts, texts[1:], right, right[1:], strict=False))
    deleting = [step for step in steps if len(step[2]) < len(step[1])]
    fixed, gap = 0, None
    for action, before, after, was, now in steps:
        if len(after) < len(before):
            same = [a == b for a, b in zip(before, reference, strict=False)]
            gap = same.index(False) if now and not was else None
        elif action not in POPS:
            fixed += now and gap == len(before)
            gap = None if gap == len(before) or not now else gap
    return Edits(
        deletions=len(deleting),
        deleted_wrong=sum(not was for *_, was, _ in deleting),
        errors=sum(was and not now for *_, was, now in steps),
        errors_deleted=sum(now and not was for *_, was, now in steps),
        errors_fixed=fixed,
    )


def test_counts_are_those_of_a_slow_oracle():
    symbols, found = ids("abcabc<<<2R"), set()
    for seed in range(3000):
        rng = random.Random(seed)
        actions = rng.choices(symbols, k=rng.randrange(12))
        actions += [EOS] * (seed % 2)
        reference = [*rng.choices(ids("abc"), k=rng.randrange(4)), EOS]
        counts = count_edits(MDP, actions, reference)
        assert counts == count_slowly(actions, reference), (actions, reference)
        found.add(counts)
    assert len(found) > 50


def test_shares_are_of_all_answers_together():
    answers = [answer("ab", "ab$", True), answer("ab", "ac<b$", True), answer("ab", "b<c", False)]
    assert edit_statistics(MDP, answers, TOKENIZER.encode) == {
        "answers": 2 / 3,
        "per_action": 2 / 11,
        "deleted_wrong": 1.0,
        "errors": 3,
        "errors_deleted": 2 / 3,
        "errors_mended": 1 / 3,
    }


def test_shares_of_nothing_are_none():
    found = edit_statistics(MDP, [answer("ab", "ab$", True)], TOKENIZER.encode)
    shares = ("deleted_wrong", "errors_deleted", "errors_mended")
    assert [found[share] for share in shares] == [None] * 3
    assert (found["answers"], found["per_action"], found["errors"]) == (0, 0, 0)
