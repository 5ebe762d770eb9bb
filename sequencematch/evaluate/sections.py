"""The sections of a report: what the run is judged by, curves, edits and scores.

Each takes the files of a run and returns HTML, or "" if the files have nothing to show. Any value of
the files may be missing or of another type. Formatting helpers come first.
"""

import html
import math
from collections.abc import Callable, Sequence

from sequencematch.evaluate.metrics import is_share
from sequencematch.evaluate.plots import (
    escape_unprintable,
    figures,
    finite_or_nan,
    groups_of_panels,
)
from sequencematch.evaluate.records import RunFiles

DECODES = ("greedy", "sampled", "unedited")  # then any others


def object_at(parent: dict, key: str) -> dict:
    """Returns `parent[key]`, or {} if that is not an object."""
    return parent[key] if isinstance(parent.get(key), dict) else {}


def list_at(parent: dict, key: str) -> list:
    """Returns `parent[key]`, or [] if that is not a list."""
    return parent[key] if isinstance(parent.get(key), list) else []


def escape(value: object) -> str:
    """Returns a value as HTML text without unprintable characters."""
    return html.escape(escape_unprintable(str(value)))


def percent(value: object) -> str:
    """Returns a share such as 41.0 %, or a dash if it is not a number."""
    return "–" if math.isnan(finite_or_nan(value)) else f"{100 * finite_or_nan(value):.1f} %"


def count(value: object) -> str:
    """Returns a number such as 1,024 or 5.8, or a dash if it is not a number."""
    if math.isnan(finite_or_nan(value)):
        return "–"
    return f"{round(finite_or_nan(value), 1):,}".removesuffix(".0")


def decimal(value: object) -> str:
    """Returns a number such as 0.91, or a dash if it is not a number."""
    number = round(finite_or_nan(value), 2) + 0.0  # which is no minus zero
    return "–" if math.isnan(number) else f"{number:.2f}"


def figure(value: object, as_share: bool = True) -> str:
    """Returns a figure as a share, or as a number."""
    number = finite_or_nan(value)
    return percent(value) if as_share or math.isnan(number) else f"{number:.4g}"


def duration(seconds: object) -> str:
    """Returns a time such as 6.2 s, 9 min 12 s or 1 h 02 min."""
    if math.isnan(finite_or_nan(seconds)) or finite_or_nan(seconds) < 60:
        return f"{count(seconds)} s"
    minutes, rest = divmod(round(finite_or_nan(seconds)), 60)
    return (
        f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
    )


def ways(run: RunFiles) -> list[str]:
    """The ways to answer that a run's files have, the usual ones first."""
    others = [*object_at(run.summary, "test"), *(trace.get("decode") for trace in run.traces)]
    return [*dict.fromkeys([*DECODES, *(name for name in others if isinstance(name, str))])]


def section(title: str, content: str) -> str:
    """Returns a section with a heading; "" if there is no content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n" if content else ""


def headline(run: RunFiles) -> str:
    """Shows what the run is judged by on the test set; before that, in the latest validation."""
    test, name = object_at(run.summary, "test"), run.judged_by
    title = f"{title_of(name)} on the test questions"
    validations = [line for line in run.metrics if line.get("kind") == "validation"]
    if not test and validations:
        test = _validation_scores(validations[-1], name)
        title = f"{title_of(name)} in the latest validation"
    shown = {d: object_at(test, d) for d in ways(run) if test.get(d)}
    values = (score.get(key) for score in shown.values() for key in (name, "low", "high"))
    as_share = is_share(name, map(finite_or_nan, values))
    scores = [_score(d, score, name, as_share) for d, score in shown.items()]
    return section(title, f'<div class="scores">{"".join(scores)}</div>' if scores else "")


def title_of(name: str) -> str:
    """A figure's name as the beginning of a title."""
    return name[:1].upper() + name[1:]


def _validation_scores(line: dict, judged_by: str) -> dict:
    """Turns a line of metrics.jsonl into the form of the summary's "test"."""
    names = {"": judged_by, "_low": "low", "_high": "high"}
    keys = {d: {f"{judged_by}/{d}{end}": name for end, name in names.items()} for d in DECODES}
    return {d: {name: line[k] for k, name in keys[d].items() if k in line} for d in DECODES}


def _score(decode: str, score: dict, judged_by: str, as_share: bool) -> str:
    value, low, high = (figure(score.get(key), as_share) for key in (judged_by, "low", "high"))
    facts = (
        ("low", f"95 % interval {low} to {high}"),
        ("right", f"{count(score.get('right'))} of {count(score.get('n'))} right"),
        ("finished", f"{percent(score.get('finished'))} finished"),
        ("length", f"{count(score.get('length'))} actions each"),
    )
    details = " · ".join(fact for key, fact in facts if key in score)
    within = object_at(score, "within")
    details += "".join(f" · {percent(x)} right within {escape(n)}" for n, x in within.items())
    rho = finite_or_nan(object_at(score, "return").get("spearman"))
    if not math.isnan(rho):
        details += f" · recovered return and correctness: Spearman {rho:+.2f}"
    return (
        f'<div class="card"><h3>{escape(decode)}</h3><p class="big">{value}</p>'
        f'{_bar(score, judged_by) if as_share else ""}<p class="small">{details}</p></div>'
    )


def _bar(score: dict, judged_by: str) -> str:
    """Draws a bar from 0 to 100 %, with a share as a stroke within its interval."""
    numbers = (finite_or_nan(score.get(key)) for key in (judged_by, "low", "high"))
    value, low, high = (x if math.isnan(x) else min(max(x, 0.0), 1.0) for x in numbers)
    stroke = f'<i class="stroke" style="left:{value:.2%}"></i>' * (not math.isnan(value))
    extent = f"left:{low:.2%};width:{high - low:.2%}"
    interval = f'<i class="interval" style="{extent}"></i>' * (not math.isnan(low + high))
    scale = '<p class="scale small"><span>0</span><span>50</span><span>100 %</span></p>'
    # Hidden from screen readers: the same numbers are in the text beside it.
    return f'<div aria-hidden="true"><p class="bar">{interval}{stroke}</p>{scale}</div>'


def curves(run: RunFiles) -> str:
    """Draws the metrics, one section for each group of panels that has data."""
    panels = groups_of_panels(run.judged_by, run.metrics)
    drawings = {title: figures(group, run.metrics) for title, group in panels.items()}
    grids = {title: f'<div class="panels">{svg}</div>' for title, svg in drawings.items() if svg}
    return "".join(map(section, grids.keys(), grids.values()))


# Key in the summary's "edits", title, meaning, and format.
EDIT_ROWS = (
    ("answers", "Answers that use them", "Share of answers with at least one edit.", percent),
    ("per_action", "Actions that are edits", "Share of all actions.", percent),
    (
        "deleted_wrong",
        "Justified deletions",
        "Share of deletions made while the text was wrong.",
        percent,
    ),
    (
        "deleted_right",
        "Right tokens deleted",
        "Share of deletions whose first removed token was right; with memory it is not written "
        "there again.",
        percent,
    ),
    (
        "errors",
        "Errors",
        "Tokens that made a right text wrong; a second try may be an error again.",
        count,
    ),
    ("errors_deleted", "Errors deleted", "Share of errors that an edit removed.", percent),
    (
        "errors_mended",
        "Errors mended",
        "Share of errors that were removed and replaced by the right token.",
        percent,
    ),
)


def edits(run: RunFiles) -> str:
    """Shows how often edits are used, how often rightly, and what becomes of errors."""
    test = object_at(run.summary, "test")
    uses = {d: use for d in ways(run) if (use := object_at(object_at(test, d), "edits"))}
    return section("Edits on the test questions", table(EDIT_ROWS, uses))


# Key in the "auc" of sampled answers, title, meaning, and format.
SCORE_ROWS = tuple(
    (key, title, meaning, decimal)
    for key, title, meaning in (
        ("log_likelihood", "Log-likelihood", "Sum of log π."),
        ("log_likelihood_per_action", "Log-likelihood per action", "Mean of log π."),
        ("return", "Recovered return", "Discounted sum of r; V(s₀) + discounted sum of log π."),
        ("reward_sum", "Sum of rewards", "Of r = Q − γV′, without discount."),
        ("reward_min", "Smallest reward", "Of all actions of the answer."),
        ("value_end", "Last value", "V of the text at the end."),
        ("value_drops", "Drops in value", "Sum of V − γV′."),
    )
)


def scores(run: RunFiles) -> str:
    """Shows how well scores of whole answers tell right ones from wrong ones."""
    found = object_at(object_at(object_at(run.summary, "test"), "sampled"), "auc")
    areas = {key: object_at(found, key) for key in found}
    columns = {
        column: {key: area[column] for key, area in areas.items() if column in area}
        for column in ("pooled", "within")
    }
    areas_table = table(SCORE_ROWS, columns)
    legend = (
        "<p>The probability that a right answer scores above a wrong one, among answers drawn from "
        "the policy; a half knows nothing. Pooled: any two answers. Within: two answers to one "
        "question, where no score gains by knowing hard questions from easy ones.</p>"
    )
    return section("Scores of right and wrong answers", areas_table and legend + areas_table)


def table(rows: Sequence[tuple], columns: dict[str, dict]) -> str:
    """Returns a table of the rows (key, title, meaning, format) that some column has; "" if none."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    shown = [row for row in rows if any(row[0] in cells for cells in columns.values())]
    body = "".join(_row(*row, columns) for row in shown)
    whole = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    return whole * bool(body)


def _row(key: str, title: str, meaning: str, form: Callable, columns: dict[str, dict]) -> str:
    cells = "".join(f"<td>{form(column.get(key))}</td>" for column in columns.values())
    title = f'{escape(title)}<span class="small">{escape(meaning)}</span>'
    return f'<tr><th scope="row">{title}</th>{cells}</tr>'
