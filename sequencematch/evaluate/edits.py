"""What edits do: how often they are used, what they delete, and whether that mends an error."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from sequencematch.core.mdp import Mdp
from sequencematch.data.checkers import accept_anything
from sequencematch.data.episodes import answer_ids
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import Tokenizer
from sequencematch.evaluate.generate import Answer, surviving_text

IsPossible = Callable[[list[int]], bool]  # of a text, with its `<eos>` if it has one


class Edits(NamedTuple):
    """Counts of one answer's errors and deletions.

    A text is wrong when no right answer can be reached from it any more, but by deleting.

    Attributes:
      deletions: edits that removed something.
      deleted_wrong: deletions made while the text was wrong.
      errors: tokens that made a text wrong, an early or late `<eos>` included.
      errors_deleted: errors that were removed later.
      errors_mended: errors that were removed, with a right token then put in their place.
      deleted_right: deletions whose first removed token was right in its place; with memory it is
        banned there.
    """

    deletions: int = 0
    deleted_wrong: int = 0
    errors: int = 0
    errors_deleted: int = 0
    errors_mended: int = 0
    deleted_right: int = 0


def possible_texts(task: Task, tokenizer: Tokenizer, mdp: Mdp, example: Example) -> IsPossible:
    """Returns what tells whether some right answer begins with a text, or is it if `<eos>` ends it.

    Where a task cannot say so (`Task.possible`), the references are taken for the only right answers: a
    text is compared with the nearest of them, the one with the longest common prefix.
    """
    if task.is_open:
        return lambda text: True

    if task.possible is None:
        encode = partial(answer_ids, tokenizer, example.prompt)
        end = [] if example.cut else [mdp.eos]
        references = [[*encode(text).ids, *end] for text in example.references]
        # If any reference begins with the text, the nearest does. What follows a cut one is unknown.
        return lambda text: any(text[: len(r)] == r[: len(text)] for r in references)

    def is_possible(text: list[int]) -> bool:
        is_right = task.check if text[-1:] == [mdp.eos] else task.possible
        # Each beginning of an answer is asked about: to decode them all takes a square of its length.
        return is_right is accept_anything or is_right(example, tokenizer.decode(text))

    return is_possible


def count_edits(mdp: Mdp, actions: Sequence[int], is_possible: IsPossible) -> Edits:
    """Counts the errors, deletions and mended errors of one answer.

    Args:
      mdp: says which actions are edits.
      actions: ids of the answer's actions.
      is_possible: whether a right answer begins with a text; then one begins with its beginnings too.
    """
    text: list[int] = []
    right = is_possible(text)
    # The position of the last error, and the same once it is deleted and not yet mended.
    count, error, deleted = Edits(), 0, None
    for action in actions:
        was_right = right
        if not mdp.pops[action]:
            right = was_right and is_possible([*text, action])
            # In a wrong text a token is neither right nor a new error.
            wrong = was_right and not right
            mended = right and deleted == len(text)
            count = count._replace(
                errors=count.errors + wrong, errors_mended=count.errors_mended + mended
            )
            error = len(text) if wrong else error
            deleted = None if wrong or mended else deleted
            text = [*text, action]
        elif text:
            left = max(len(text) - int(mdp.pops[action]), 0)
            # From a wrong text, too: an edit may pop right tokens below the error.
            lost_right = is_possible(text[: left + 1])
            text = text[:left]
            right = is_possible(text)
            # This edit or the next may pop right tokens below the error, too: it is mended once a right
            # token stands in its place.
            deleted = error if right and not was_right else deleted
            count = count._replace(
                deletions=count.deletions + 1,
                deleted_wrong=count.deleted_wrong + (not was_right),
                deleted_right=count.deleted_right + lost_right,
                errors_deleted=count.errors_deleted + (right and not was_right),
            )
    return count


def edit_statistics(mdp: Mdp, answers: Sequence[Answer], task: Task, tokenizer: Tokenizer) -> dict:
    """Returns how often edits are used, how often they remove errors, and how often that mends one.

    A share of nothing is None; so is all that is said of right and wrong where any text is right, or
    the beginning of a right one.
    The keys are those of summary.json.
    """
    counts = [
        count_edits(mdp, a.actions, possible_texts(task, tokenizer, mdp, a.example))
        for a in answers
    ]
    total = Edits(*map(sum, zip(*counts, strict=True)))
    used = [a.edits for a in answers]
    unknown = task.is_open or task.possible is accept_anything
    deletions, errors = (0, 0) if unknown else (total.deletions, total.errors)
    return {
        "answers": sum(n > 0 for n in used) / len(answers),
        "deletions": total.deletions,
        "per_action": sum(used) / max(sum(len(a.actions) for a in answers), 1),
        "deleted_wrong": _share(total.deleted_wrong, deletions),
        "deleted_right": _share(total.deleted_right, deletions),
        "errors": None if unknown else total.errors,
        "errors_deleted": _share(total.errors_deleted, errors),
        "errors_mended": _share(total.errors_mended, errors),
    }


def text_costs(mdp: Mdp, answers: Sequence[Answer]) -> dict[str, float]:
    """Returns what texts took: means of surviving tokens, actions and edits, and how many were cut.

    Actions are those of all draws of which a text was chosen, tokens and edits its own.

    A text is cut, and counts as unfinished, where the limit on actions came before its end. An `<eos>`
    is among the actions and not among the tokens.
    """
    n = len(answers)
    left = [surviving_text(mdp, a.actions) for a in answers]
    return {
        "tokens": sum(token != mdp.eos for text in left for token in text) / n,
        "actions": sum(a.taken for a in answers) / n,
        "edit_actions": sum(a.edits for a in answers) / n,
        "unfinished": sum(not a.finished for a in answers),
    }


def _share(part: int, whole: int) -> float | None:
    """Returns part/whole; None if whole is 0."""
    return part / whole if whole else None
