"""What edits did: how often they are used, what they delete, and whether that fixes an error."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sequencematch.core.mdp import Mdp
from sequencematch.evaluate.generate import Answer


class Edits(NamedTuple):
    """What one answer's edits did, counted against the reference.

    Attributes:
      deletions: edits that removed something.
      deleted_wrong: those made while the text was no beginning of the reference.
      errors: first wrong tokens after a right beginning, a premature or late `<eos>` included.
      errors_deleted: those later removed.
      errors_mended: those removed, and the right token put in their place.
    """

    deletions: int = 0
    deleted_wrong: int = 0
    errors: int = 0
    errors_deleted: int = 0
    errors_mended: int = 0


def count_edits(mdp: Mdp, actions: Sequence[int], reference: Sequence[int]) -> Edits:
    """Counts errors and mends of one answer; `reference` ends in `<eos>`."""
    text: list[int] = []
    # Where the text went wrong, and where that was taken back but not yet put right.
    count, astray, removed = Edits(), 0, None
    for action in actions:
        right = text == list(reference[: len(text)])
        if not mdp.pops[action]:
            wrong = right and action != reference[len(text)]
            mended = right and not wrong and removed == len(text)
            count = count._replace(
                errors=count.errors + wrong, errors_mended=count.errors_mended + mended
            )
            astray = len(text) if wrong else astray
            removed = None if wrong or mended else removed
            text = [*text, action]
        elif text:
            text = text[: max(len(text) - int(mdp.pops[action]), 0)]
            now_right = text == list(reference[: len(text)])
            removed = astray if now_right and not right else None
            count = count._replace(
                deletions=count.deletions + 1,
                deleted_wrong=count.deleted_wrong + (not right),
                errors_deleted=count.errors_deleted + (now_right and not right),
            )
    return count


def edit_statistics(
    mdp: Mdp, answers: Sequence[Answer], encode: Callable[[str], Sequence[int]]
) -> dict:
    """How often edits are used, how often they remove what is wrong, how often that mends it."""
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
        "errors_mended": _share(total.errors_mended, total.errors),
    }


def _share(part: int, whole: int) -> float | None:
    """part/whole, or None where there is nothing to take a share of."""
    return part / whole if whole else None
