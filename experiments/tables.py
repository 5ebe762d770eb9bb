"""Prints the tables of docs/results.md from the rows of a grid.

    python -m experiments.tables --grid=NAME

One line for each setting: accuracy by way of decoding, over all seeds, with an interval over seeds
and questions (two-way bootstrap; questions about the same numbers are drawn together). Then the
paired difference of each setting to the first, by seed and question; of test questions, to every
other. A difference is claimed only where its interval excludes zero. Of three runs and more, p is by
Student's t over them: whether other seeds might show no difference. Of test questions also: answers
after wrong starts, and how well scores of answers tell right ones from wrong ones.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from experiments import text_tables
from experiments.asked import Rows, asked_of, questions_of
from experiments.cells import read_rows
from experiments.figures import unpack, unpack_numbers
from experiments.grids import GRIDS, TEXT_GRIDS
from experiments.markdown import print_table
from sequencematch.evaluate.auc import auc, auc_within
from sequencematch.evaluate.generate import VALIDATED
from sequencematch.evaluate.intervals import accuracy_interval, paired_difference
from sequencematch.evaluate.wrong_starts import LENGTHS
from sequencematch.train.methods import METHODS

GRID = flags.DEFINE_enum("grid", None, list(GRIDS), "The grid.", required=True)
DRAW = flags.DEFINE_string("draw", None, "Of texts: a file for quality against diversity, as SVG.")
CHOICES = ("greedy", "unedited", "sampled")
FEW = 5  # runs


def by_setting(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Rows]:
    """The rows of each setting, in the order of the grid's settings; others are of another time."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    known = [row for row in rows if row["name"] in names]
    for row in sorted(known, key=lambda row: (names.index(row["name"]), row["seed"])):
        found.setdefault(row["name"], {})[row["seed"]] = row
    return found


def right(rows: Rows, seeds: Sequence[int], choice: str) -> np.ndarray:
    """bool[S, N]: whether the run of each seed answered each question that counts rightly."""
    return stack([figures_in(rows[seed], choice) for seed in seeds])[:, asked_of(rows).counts]


def figures_in(row: Mapping[str, Any], choice: str) -> Mapping[str, Any] | None:
    """What a run answered in a way; None if it was not asked in that way.

    A run without edits has one greedy answer, edited or not.
    """
    edits = METHODS[row["method"]].edits and row["changes"].get("edits", True)
    known = {} if edits else {"unedited": row["figures"]["greedy"]}
    return (known | row["figures"]).get(choice)


def choices_of(settings: Iterable[Rows]) -> list[str]:
    """The ways of decoding in which all runs were asked."""
    rows = [row for rows in settings for row in rows.values()]
    return [choice for choice in CHOICES if all(figures_in(row, choice) for row in rows)]


def stack(figures: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """bool[S, N]: which of n questions each run answered rightly."""
    return np.stack([unpack(f["questions"], f["n"]) for f in figures])


def groups_of(rows: Rows) -> np.ndarray:
    """The groups of the questions that count."""
    asked = asked_of(rows)
    return asked.groups[asked.counts]


def share(table: np.ndarray, groups: Sequence[int]) -> str:
    """The mean of bool[S, N] and its interval over runs and groups of questions."""
    low, high = accuracy_interval(table, groups=groups)
    return f"{table.mean():.1%} [{low:.1%}, {high:.1%}]"


def accuracy_cells(rows: Rows, choices: Sequence[str]) -> list[str]:
    """Accuracy and its interval, for each way of decoding."""
    return [share(right(rows, list(rows), choice), groups_of(rows)) for choice in choices]


def actions_cell(rows: Rows) -> str:
    """The mean number of actions of a greedy answer."""
    return f"{np.mean([row['figures']['greedy']['length'] for row in rows.values()]):.2f}"


def difference_cells(rows: Rows, base: Rows, choices: Sequence[str]) -> list[str]:
    """The paired difference to another setting in points, for each way of decoding."""
    seeds, cells = [seed for seed in rows if seed in base], []
    if not seeds:
        return cells
    for choice in choices:
        both = [right(each, seeds, choice) for each in (rows, base)]
        found = paired_difference(*both, groups=groups_of(rows))
        points = [f"{100 * x:+.1f}" for x in (found.mean, found.low, found.high)]
        whole = f"{points[0]} [{points[1]}, {points[2]}]"
        over_runs = "" if found.p_value is None else f", p = {found.p_value:.2g}"
        cells.append(whole + over_runs + of_each_run(*both))
    return cells


def of_each_run(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The difference of each run, of less than five: intervals over so few are too narrow.

    Args:
      ours, theirs: bool[S, N], paired.
    """
    points = 100 * (ours.mean(axis=1) - theirs.mean(axis=1))
    return f" ({', '.join(f'{x:+.1f}' for x in points)})" if len(points) < FEW else ""


def wrong_start_cells(rows: Rows, choice: str) -> list[str]:
    """Number of questions, and accuracy on them after 0, 1, 2, ... wrong tokens, with its interval.

    Nothing for a method without edits.
    """
    starts = [row["figures"].get("wrong_starts", {}).get(choice) for row in rows.values()]
    if not all(starts):  # newer rows have those of greedy answers alone
        return []
    first = starts[0][0]["n"]  # questions, the first of all
    counts, groups = (x[:first] for x in asked_of(rows))
    whole = stack([row["figures"][choice] for row in rows.values()])[:, :first]
    lengths = [whole, *map(stack, zip(*starts, strict=True))]
    cells = [share(table[:, counts], groups[counts]) for table in lengths]
    return [f"{counts.sum():,}", *cells]


# Column -> key of the figures of edits.
EDITS = {
    "answers with edits": "answers",
    "edits per action": "per_action",
    "of them while wrong": "deleted_wrong",
    "of them of a right token": "deleted_right",
    "errors deleted": "errors_deleted",
    "errors mended": "errors_mended",
}


def edit_cells(rows: Rows) -> list[str]:
    """What edits do in greedy answers: shares of what all runs did together."""
    found = [edit_counts(row["figures"]["greedy"]) for row in rows.values()]
    shares = []
    for key in EDITS.values():
        parts, wholes = (sum(x) for x in zip(*(each[key] for each in found), strict=True))
        shares.append(f"{parts / wholes:.1%}" if wholes else "")
    return shares


def edit_counts(figures: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Key of a share -> (part, whole), of the greedy answers of a run."""
    edits, answers = figures["edits"], figures["n"]
    actions = figures["length"] * answers
    edited = edits["per_action"] * actions  # older rows do not count deletions
    wholes = {"answers": answers, "per_action": actions}
    wholes |= dict.fromkeys(("deleted_wrong", "deleted_right"), edits.get("deletions", edited))
    wholes |= dict.fromkeys(("errors_deleted", "errors_mended"), edits["errors"] or 0)
    return {key: ((edits[key] or 0.0) * wholes[key], wholes[key]) for key in EDITS.values()}


def with_one_discount(settings: Mapping[str, Rows]) -> dict[str, Rows]:
    """The runs of those seeds whose scores have one discount in all settings: they hang on it."""
    seeds = dict.fromkeys(seed for rows in settings.values() for seed in rows)
    alike = [
        seed
        for seed in seeds
        if len({rows[seed]["gamma"] for rows in settings.values() if seed in rows}) == 1
    ]
    return {
        name: {seed: rows[seed] for seed in alike if seed in rows}
        for name, rows in settings.items()
        if rows.keys() & {*alike}
    }


def auc_cells(rows: Rows, kind: str) -> list[str]:
    """Mean over runs of the area under the ROC curve, of each score of answers."""
    counts = asked_of(rows).counts
    cells, found = [], [areas(row["figures"], counts) for row in rows.values()]
    for score in found[0]:
        # There is none where all answers of a run are right, or all are wrong.
        known = [each[score][kind] for each in found if each[score][kind] is not None]
        cells.append(f"{np.mean(known):.2f}" if known else "")
    return cells


def areas(figures: Mapping[str, Any], counts: np.ndarray) -> dict[str, dict[str, float | None]]:
    """The areas of each score, over answers to questions that count.

    Args:
      figures: those of a row, with its draws if some questions do not count.
      counts: bool[N], whether each question does.
    """
    if counts.all():
        return figures["auc"]
    draws = figures["draws"]
    question = np.arange(draws["n"]) // draws["samples"]
    kept = counts[question]
    right, question = unpack(draws["right"], draws["n"])[kept], question[kept]
    columns = {name: unpack_numbers(x, "<f4")[kept] for name, x in draws["scores"].items()}
    return {
        name: {"pooled": auc(x, right), "within": auc_within(x, right, question)}
        for name, x in columns.items()
    }


def print_test_figures(settings: Mapping[str, Rows]) -> None:
    """Prints what is measured on test questions alone."""
    print("\nWhat edits do, of greedy answers to all questions:\n")
    lines = [[name, *edit_cells(rows)] for name, rows in settings.items()]
    print_table(["setting", *EDITS], lines)
    for choice in VALIDATED:
        lines = [[name, *wrong_start_cells(rows, choice)] for name, rows in settings.items()]
        if any(line[1:] for line in lines):
            print(f"\nRight after so many wrong tokens at the start, {choice}:\n")
            header = ["setting", "questions", *map(str, (0, *LENGTHS))]
            print_table(header, [line for line in lines if line[1:]])
    scores = list(next(iter(settings.values())).values())[0]["figures"]["auc"]
    alike = with_one_discount(settings)
    for kind in ("pooled", "within"):
        print(f"\nArea under the ROC curve of correctness, {kind}:\n")
        lines = [
            [name, ", ".join(map(str, rows)), *auc_cells(rows, kind)]
            for name, rows in alike.items()
        ]
        print_table(["setting", "seeds", *scores], lines)


def print_accuracy(settings: Mapping[str, Rows]) -> None:
    """Prints accuracy and cost, and how many questions do not count."""
    lines, choices = [], choices_of(settings.values())
    for name, rows in settings.items():
        first = next(iter(rows.values()))
        cost = [f"{first['steps']:,}", f"{first['tokens'] / 1e6:.3g} M", actions_cell(rows)]
        lines.append([name, str(len(rows)), *accuracy_cells(rows, choices), *cost])
    print_table(["setting", "seeds", *choices, "steps", "tokens", "actions"], lines)
    counts = asked_of(next(iter(settings.values()))).counts
    if not counts.all():
        left = f"{sum(~counts):,} of {len(counts):,} questions"
        print(f"\n{left} are left out: train has them in another base, with the same answer.")


def print_differences(settings: Mapping[str, Rows], bases: Sequence[str]) -> None:
    """Prints the differences of settings to each base before them, of answers to the same questions."""
    names, choices = list(settings), choices_of(settings.values())
    for base in bases:
        asked, later = questions_of(settings[base]), names[names.index(base) + 1 :]
        same = [name for name in later if questions_of(settings[name]) == asked]
        if same:
            print(f"\nAgainst {base}, in points:\n")
            lines = [
                [name, *difference_cells(settings[name], settings[base], choices)] for name in same
            ]
            print_table(["setting", *choices], lines)


def main(argv: list[str]) -> int | None:
    """Prints the tables."""
    try:
        cells = GRIDS[GRID.value]()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    rows, names = read_rows(GRID.value), [cell.name for cell in cells]
    if others := {row["name"] for row in rows} - {*names}:
        print(f"left out, the grid has them no more: {', '.join(sorted(others))}", file=sys.stderr)
    settings = by_setting(rows, names)
    if not settings:
        print(f"experiments/results/{GRID.value}.jsonl has no rows of it yet", file=sys.stderr)
        return 2
    if GRID.value in TEXT_GRIDS:
        text_tables.print_texts(settings)
        if DRAW.value:
            text_tables.draw(settings).savefig(DRAW.value)
        return None
    print_accuracy(settings)
    print_differences(settings, list(settings)[: None if cells[0].split == "test" else 1])
    if all("auc" in row["figures"] for rows in settings.values() for row in rows.values()):
        print_test_figures(settings)
    return None


if __name__ == "__main__":
    app.run(main)
