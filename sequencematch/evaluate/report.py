"""`report.html`: a run on one self-contained page, made from the files the run writes.

The page shows what the files hold and no more: a missing key leaves out its place on the page.
"""

import html
import json
import math
import pathlib
from collections.abc import Callable, Iterator

from sequencematch import files
from sequencematch.evaluate.plots import SECTIONS, figures, finite, visible
from sequencematch.evaluate.records import Run, read

STYLE = pathlib.Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
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


def write_report(workdir: pathlib.Path) -> pathlib.Path:
    """Writes report.html from metrics.jsonl, summary.json and traces.jsonl, whichever exist.

    Args:
        workdir: the directory of a finished or running run.

    Returns:
        The page's path; the page is replaced as a whole, so a reader never sees half of it.

    Raises:
        ValueError: summary.json is no JSON object.
        OSError: the page cannot be written.
    """
    return files.write(workdir / "report.html", _page(read(workdir)))


def _page(run: Run) -> str:
    parts = (_header, _accuracy, _curves, _edits, _traces, _details)
    body = "\n".join(part(run) for part in parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{_text(' · '.join(_title(run)))}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _title(run: Run) -> list[str]:
    """Name and method; the directory's name while there is no summary."""
    return [str(run.summary[key]) for key in ("name", "method") if key in run.summary] or [run.name]


def _header(run: Run) -> str:
    title = '<span class="muted"> · </span>'.join(map(_text, _title(run)))
    facts = [f"seed {run.summary['seed']}"] if "seed" in run.summary else []
    facts += [str(run.summary["hardware"])] if "hardware" in run.summary else []
    seconds = _dict(run.summary, "seconds")
    facts += [f"{_duration(seconds['total'])} in all"] if "total" in seconds else []
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in _notes(run))
    return (
        f'<header><p class="small">SequenceMatch run</p><h1>{title}</h1>'
        f'<p class="muted">{_text(" · ".join(facts))}</p>{notes}</header>'
    )


def _notes(run: Run) -> Iterator[str]:
    """What a reader should know before trusting the page."""
    if not run.summary:
        step = f", {run.metrics[-1]['step']:,} steps so far" if run.metrics else ""
        yield f"No summary.json: this run has not finished{step}."
    step, last = run.summary.get("steps"), _dict(_dict(run.summary, "config"), "train").get("steps")
    if finite(step) < finite(last):
        yield f"Judged after {_count(step)} of {_count(last)} steps: this run has not finished."
    if run.unreadable:
        yield f"Lines of metrics.jsonl and traces.jsonl left out as unreadable: {run.unreadable}."


def _accuracy(run: Run) -> str:
    """The test set's accuracy or, while there is none, the latest validation's."""
    test, title = _dict(run.summary, "test"), "Accuracy on the test questions"
    validations = [line for line in run.metrics if line.get("kind") == "validation"]
    if not test and validations:
        test, title = _validation(validations[-1]), "Accuracy in the latest validation"
    scores = [_score(decode, _dict(test, decode)) for decode in DECODES if test.get(decode)]
    return _section(title, f'<div class="scores">{"".join(scores)}</div>' if scores else "")


def _validation(line: dict) -> dict:
    """A line of metrics.jsonl in the form of the summary's test."""
    names = {"": "accuracy", "_low": "low", "_high": "high"}
    keys = {d: {f"accuracy/{d}{end}": name for end, name in names.items()} for d in DECODES}
    return {d: {name: line[k] for k, name in keys[d].items() if k in line} for d in DECODES}


def _score(decode: str, score: dict) -> str:
    facts = (
        ("low", f"95 % interval {_percent(score.get('low'))} to {_percent(score.get('high'))}"),
        ("right", f"{_count(score.get('right'))} of {_count(score.get('n'))} right"),
        ("finished", f"{_percent(score.get('finished'))} finished"),
        ("length", f"{_count(score.get('length'))} actions each"),
    )
    told = " · ".join(fact for key, fact in facts if key in score)
    rho = finite(_dict(score, "return").get("spearman"))
    if not math.isnan(rho):
        told += f" · recovered return and correctness: Spearman {rho:+.2f}"
    return (
        f'<div class="card"><h3>{decode}</h3><p class="big">{_percent(score.get("accuracy"))}</p>'
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


def _curves(run: Run) -> str:
    drawn = {title: figures(panels, run.metrics) for title, panels in SECTIONS.items()}
    grids = {title: f'<div class="panels">{svg}</div>' for title, svg in drawn.items() if svg}
    return "".join(map(_section, grids.keys(), grids.values()))


def _edits(run: Run) -> str:
    """How often edits are used, how often rightly, and what becomes of errors."""
    test = _dict(run.summary, "test")
    uses = {d: use for d in DECODES if (use := _dict(_dict(test, d), "edits"))}
    head = "".join(f'<th scope="col">{decode}</th>' for decode in uses)
    rows = "".join(_use(*row, uses) for row in USES if any(row[0] in use for use in uses.values()))
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return _section("Edits on the test questions", table * bool(rows))


def _use(key: str, title: str, meaning: str, form: Callable, uses: dict[str, dict]) -> str:
    cells = "".join(f"<td>{form(use.get(key))}</td>" for use in uses.values())
    title = f'{_text(title)}<span class="small">{_text(meaning)}</span>'
    return f'<tr><th scope="row">{title}</th>{cells}</tr>'


def _traces(run: Run) -> str:
    groups = "".join(_group(decode, run.traces) for decode in DECODES)
    return _section("Sample traces", groups and _legend(run.traces) + groups)


def _legend(traces: list[dict]) -> str:
    """What the marks in the traces mean."""
    used = {str(action) for trace in traces for action in _list(trace, "actions")}
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
    right, actions = trace.get("right"), [str(action) for action in _list(trace, "actions")]
    name, sign = SIGNS[right] if isinstance(right, bool) else ("not judged", "?")
    gone = {time for time, flag in enumerate(_list(trace, "deleted")) if flag}
    taken = "".join(_action(action, time in gone) for time, action in enumerate(actions))
    answer = f" · <span>right answer: <code>{_text(trace.get('answer', '–'))}</code></span>"
    return (
        f'<li class="card {name}"><p class="sign"><b>{sign}</b> {name}</p>'
        f'<p>{_text(trace.get("prompt", ""))}</p><p class="actions">{taken}</p>'
        f'<p class="small">text: <code>{_text(trace.get("text", ""))}</code>'
        f"{answer * (right is False)}</p></li>"
    )


def _action(action: str, is_deleted: bool) -> str:
    if action in MARKS:
        return f'<kbd title="{_text(action)}">{MARKS[action]}</kbd>'
    return f"<del>{_text(action)}</del>" if is_deleted else f"<span>{_text(action)}</span>"


def _details(run: Run) -> str:
    summary, config = run.summary, "\n".join(_flat(_dict(run.summary, "config")))
    facts = [(key, _count(summary[key])) for key in COUNTS if key in summary]
    facts += [(f"time, {key}", _duration(s)) for key, s in _dict(summary, "seconds").items()]
    facts += _dict(summary, "versions").items()
    facts = "".join(
        f"<div><dt>{_text(k.replace('_', ' '))}</dt><dd>{_text(v)}</dd></div>" for k, v in facts
    )
    command = f"<h3>Command</h3><pre>{_text(summary.get('command'))}</pre>"
    folded = f"<details><summary>Configuration</summary><pre>{_text(config)}</pre></details>"
    blocks = (f"<dl>{facts}</dl>" * bool(facts), command * ("command" in summary))
    return _section("The run", "".join(blocks) + folded * bool(config))


def _flat(config: dict, prefix: str = "") -> Iterator[str]:
    """One line for each value, its key as --config.key=value takes it."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {json.dumps(value, ensure_ascii=False)}"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>\n" if content else ""


def _dict(parent: dict, key: str) -> dict:
    """`parent[key]`, or {} where there is no object."""
    return parent[key] if isinstance(parent.get(key), dict) else {}


def _list(parent: dict, key: str) -> list:
    """`parent[key]`, or [] where there is no list."""
    return parent[key] if isinstance(parent.get(key), list) else []


def _text(value: object) -> str:
    return html.escape(visible(str(value)))


def _percent(value: object) -> str:
    return "–" if math.isnan(finite(value)) else f"{100 * finite(value):.1f} %"


def _count(value: object) -> str:
    return "–" if math.isnan(finite(value)) else f"{round(finite(value), 1):,}".removesuffix(".0")


def _duration(seconds: object) -> str:
    """As 6.2 s, 9 min 12 s or 1 h 02 min."""
    if math.isnan(finite(seconds)) or finite(seconds) < 60:
        return f"{_count(seconds)} s"
    minutes, rest = divmod(round(finite(seconds)), 60)
    return (
        f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
    )


COUNTS = ("parameters", "steps", "tokens", "sampled_tokens")
# Key in the summary, title, what it says, and how it is written.
USES = (
    ("answers", "Answers that use them", "Share of answers with at least one edit.", _percent),
    ("per_action", "Actions that are edits", "Share of all actions taken.", _percent),
    (
        "deleted_wrong",
        "Deletions that were due",
        "Share made while the text was wrong.",
        _percent,
    ),
    (
        "errors",
        "Errors",
        "Tokens that led a right beginning astray; a new try may err again.",
        _count,
    ),
    ("errors_deleted", "Errors deleted", "Share of errors that an edit removed.", _percent),
    ("errors_mended", "Errors mended", "Share of errors removed and then put right.", _percent),
)
