"""What edits do: how often they are used, what they delete, and whether that fixes an error."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sequencematch.core.mdp import Mdp
from sequencematch.evaluate.generate import Answer


class Edits(NamedTuple):
    """Counts of one answer's errors and deletions, by comparison with the reference.

    A text is off the reference when the reference does not begin with it.

    Attributes:
      deletions: edits that removed something.
      deleted_wrong: deletions made while the text was off the reference.
      errors: tokens that led the text off the reference, an early or late `<eos>` included.
      errors_deleted: errors that were removed later.
      errors_fixed: errors that were removed, with the right token then put in their place.
    """

    deletions: int = 0
    deleted_wrong: int = 0
    errors: int = 0
    errors_deleted: int = 0
    errors_fixed: int = 0


def count_edits(mdp: Mdp, actions: Sequence[int], reference: Sequence[int]) -> Edits:
    """Counts the errors, deletions and fixes of one answer; `reference` ends in `<eos>`."""
    text: list[int] = []
    # The position of the last error, and the same once it is deleted and not yet fixed.
    count, error, deleted = Edits(), 0, None
    for action in actions:
        right = text == list(reference[: len(text)])
        if not mdp.pops[action]:
            # Off the reference a token is neither right nor a new error.
            wrong = right and action != reference[len(text)]
            fixed = right and not wrong and deleted == len(text)
            count = count._replace(
                errors=count.errors + wrong, errors_fixed=count.errors_fixed + fixed
            )
            error = len(text) if wrong else error
            deleted = None if wrong or fixed else deleted
            text = [*text, action]
        elif text:
            text = text[: max(len(text) - int(mdp.pops[action]), 0)]
            now_right = text == list(reference[: len(text)])
            # An edit may pop right tokens below the error too; the fix is then still to come.
            deleted = error if now_right and not right else None
            count = count._replace(
                deletions=count.deletions + 1,
                deleted_wrong=count.deleted_wrong + (not right),
                errors_deleted=count.errors_deleted + (now_right and not right),
            )
    return count


def edit_statistics(
    mdp: Mdp, answers: Sequence[Answer], encode: Callable[[str], Sequence[int]]
) -> dict:
    """Returns how often edits are used, how often they remove errors, and how often that fixes one.

    A share of nothing is None. The keys are those of summary.json.
    """
    # With <eos>, since ending too early or too late is an error too.
    references = ([*encode(a.example.completion), mdp.eos] for a in answers)
    pairs = zip(answers, references, strict=True)
    counts = [count_edits(mdp, a.actions, reference) for a, reference in pairs]
    total = Edits(*map(sum, zip(*counts, strict=True)))
    used = [sum(bool(mdp.pops[action]) for action in a.actions) for a in answers]
    return {
        "answers": sum(n > 0 for n in used) / len(answers),
        "per_action": sum(used) / max(sum(len(a.actions) for a in answers), 1),
        "deleted_wrong": _share(total.deleted_wrong, total.deletions),
        "errors": total.errors,
        "errors_deleted": _share(total.errors_deleted, total.errors),
        "errors_mended": _share(total.errors_fixed, total.errors),
    }


def _share(part: int, whole: int) -> float | None:
    """Returns part/whole; None if whole is 0."""
    return part / whole if whole else None
