"""The sections of a report: accuracy, curves, edits, traces; and how their figures are written."""

import html
import math
from collections.abc import Callable

from sequencematch.evaluate.plots import SECTIONS, figures, finite, visible
from sequencematch.evaluate.records import RunFiles

DECODES = ("greedy", "sampled")
TRACES_SHOWN = 12

# How an action that is no text is shown, and what it does.
MARKS = {"<bkspc>": "⌫", "<bkspc2>": "⌫2", "<bkspc4>": "⌫4", "<reset>": "↺", "<eos>": "⊣"}

MEANINGS = {
    "<bkspc>": "deletes the last token that is left",
    "<bkspc2>": "the last two",
    "<bkspc4>": "the last four",
    "<reset>": "deletes all that was written",
    "<eos>": "ends the answer",
}

SIGNS = {True: ("right", "✓"), False: ("wrong", "✗")}


def accuracy(run: RunFiles) -> str:
    """The test set's accuracy or, while there is none, the latest validation's."""
    test, title = object_at(run.summary, "test"), "Accuracy on the test questions"
    validations = [line for line in run.metrics if line.get("kind") == "validation"]
    if not test and validations:
        test, title = _validation(validations[-1]), "Accuracy in the latest validation"
    scores = [_score(decode, object_at(test, decode)) for decode in DECODES if test.get(decode)]
    return section(title, f'<div class="scores">{"".join(scores)}</div>' if scores else "")


def _validation(line: dict) -> dict:
    """A line of metrics.jsonl in the form of the summary's test."""
    names = {"": "accuracy", "_low": "low", "_high": "high"}
    keys = {d: {f"accuracy/{d}{end}": name for end, name in names.items()} for d in DECODES}
    return {d: {name: line[k] for k, name in keys[d].items() if k in line} for d in DECODES}


def _score(decode: str, score: dict) -> str:
    facts = (
        ("low", f"95 % interval {percent(score.get('low'))} to {percent(score.get('high'))}"),
        ("right", f"{count(score.get('right'))} of {count(score.get('n'))} right"),
        ("finished", f"{percent(score.get('finished'))} finished"),
        ("length", f"{count(score.get('length'))} actions each"),
    )
    told = " · ".join(fact for key, fact in facts if key in score)
    rho = finite(object_at(score, "return").get("spearman"))
    if not math.isnan(rho):
        told += f" · recovered return and correctness: Spearman {rho:+.2f}"
    return (
        f'<div class="card"><h3>{decode}</h3><p class="big">{percent(score.get("accuracy"))}</p>'
        f'{_bar(score)}<p class="small">{told}</p></div>'
    )


def _bar(score: dict) -> str:
    """From 0 to 100 %: the accuracy as a stroke within its interval."""
    value, low, high = (finite(score.get(key)) for key in ("accuracy", "low", "high"))
    stroke = f'<i class="stroke" style="left:{value:.2%}"></i>' * (not math.isnan(value))
    extent = f"left:{low:.2%};width:{high - low:.2%}"
    interval = f'<i class="interval" style="{extent}"></i>' * (not math.isnan(low + high))
    scale = '<p class="scale small"><span>0</span><span>50</span><span>100 %</span></p>'
    return f'<div aria-hidden="true"><p class="bar">{interval}{stroke}</p>{scale}</div>'


def curves(run: RunFiles) -> str:
    drawn = {title: figures(panels, run.metrics) for title, panels in SECTIONS.items()}
    grids = {title: f'<div class="panels">{svg}</div>' for title, svg in drawn.items() if svg}
    return "".join(map(section, grids.keys(), grids.values()))


def edits(run: RunFiles) -> str:
    """How often edits are used, how often rightly, and what becomes of errors."""
    test = object_at(run.summary, "test")
    uses = {d: use for d in DECODES if (use := object_at(object_at(test, d), "edits"))}
    head = "".join(f'<th scope="col">{decode}</th>' for decode in uses)
    rows = "".join(_use(*row, uses) for row in USES if any(row[0] in use for use in uses.values()))
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return section("Edits on the test questions", table * bool(rows))


def _use(key: str, title: str, meaning: str, form: Callable, uses: dict[str, dict]) -> str:
    cells = "".join(f"<td>{form(use.get(key))}</td>" for use in uses.values())
    title = f'{escape(title)}<span class="small">{escape(meaning)}</span>'
    return f'<tr><th scope="row">{title}</th>{cells}</tr>'


def traces(run: RunFiles) -> str:
    groups = "".join(_group(decode, run.traces) for decode in DECODES)
    return section("Sample traces", groups and _legend(run.traces) + groups)


def _legend(traces: list[dict]) -> str:
    """What the marks in the traces mean."""
    used = {str(action) for trace in traces for action in list_at(trace, "actions")}
    told = [f"{MARKS[name]} {meaning}" for name, meaning in MEANINGS.items() if name in used]
    told += ["what was deleted is <del>struck through</del>"]
    order = " Answers with edits come first, in a larger share than they have."
    return f"<p>{'; '.join(told)}.{order * bool(used & set(MARKS) - {'<eos>'})}</p>"


def _group(decode: str, traces: list[dict]) -> str:
    """The first traces in sight, the others folded away."""
    items = [_trace(trace) for trace in traces if trace.get("decode") == decode]
    shown, more = "".join(items[:TRACES_SHOWN]), "".join(items[TRACES_SHOWN:])
    rest = f"<summary>{len(items) - TRACES_SHOWN} more, {decode}</summary>"
    folded = f'<details>{rest}<ol class="panels">{more}</ol></details>' * bool(more)
    return f'<h3>{decode}</h3><ol class="panels">{shown}</ol>{folded}' * bool(items)


def _trace(trace: dict) -> str:
    right, actions = trace.get("right"), [str(action) for action in list_at(trace, "actions")]
    name, sign = SIGNS[right] if isinstance(right, bool) else ("not judged", "?")
    gone = {time for time, flag in enumerate(list_at(trace, "deleted")) if flag}
    taken = "".join(_action(action, time in gone) for time, action in enumerate(actions))
    answer = f" · <span>right answer: <code>{escape(trace.get('answer', '–'))}</code></span>"
    return (
        f'<li class="card {name}"><p class="sign"><b>{sign}</b> {name}</p>'
        f'<p>{escape(trace.get("prompt", ""))}</p><p class="actions">{taken}</p>'
        f'<p class="small">text: <code>{escape(trace.get("text", ""))}</code>'
        f"{answer * (right is False)}</p></li>"
    )


def _action(action: str, is_deleted: bool) -> str:
    if action in MARKS:
        return f'<kbd title="{escape(action)}">{MARKS[action]}</kbd>'
    return f"<del>{escape(action)}</del>" if is_deleted else f"<span>{escape(action)}</span>"


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n" if content else ""


def object_at(parent: dict, key: str) -> dict:
    """`parent[key]`, or {} where there is no object."""
    return parent[key] if isinstance(parent.get(key), dict) else {}


def list_at(parent: dict, key: str) -> list:
    """`parent[key]`, or [] where there is no list."""
    return parent[key] if isinstance(parent.get(key), list) else []


def escape(value: object) -> str:
    return html.escape(visible(str(value)))


def percent(value: object) -> str:
    return "–" if math.isnan(finite(value)) else f"{100 * finite(value):.1f} %"


def count(value: object) -> str:
    return "–" if math.isnan(finite(value)) else f"{round(finite(value), 1):,}".removesuffix(".0")


def duration(seconds: object) -> str:
    """As 6.2 s, 9 min 12 s or 1 h 02 min."""
    if math.isnan(finite(seconds)) or finite(seconds) < 60:
        return f"{count(seconds)} s"
    minutes, rest = divmod(round(finite(seconds)), 60)
    return (
        f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
    )


# Key in the summary, title, what it says, and how it is written.
USES = (
    ("answers", "Answers that use them", "Share of answers with at least one edit.", percent),
    ("per_action", "Actions that are edits", "Share of all actions taken.", percent),
    (
        "deleted_wrong",
        "Deletions that were due",
        "Share made while the text was wrong.",
        percent,
    ),
    (
        "errors",
        "Errors",
        "Tokens that led a right beginning astray; a new try may err again.",
        count,
    ),
    ("errors_deleted", "Errors deleted", "Share of errors that an edit removed.", percent),
    ("errors_mended", "Errors mended", "Share of errors removed and then put right.", percent),
)
