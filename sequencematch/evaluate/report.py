"""Writes report.html: one self-contained page about a run, made from the files of the run.

The page shows only what is in the files; a missing key leaves out its place on the page.
"""

import json
import pathlib
from collections.abc import Iterator

from sequencematch.data.facts import describe
from sequencematch.evaluate.plots import finite_or_nan
from sequencematch.evaluate.records import RunFiles, read
from sequencematch.evaluate.sections import (
    count,
    curves,
    duration,
    edits,
    escape,
    headline,
    object_at,
    percent,
    scores,
    section,
)
from sequencematch.evaluate.text_section import file_scores, texts
from sequencematch.evaluate.trace_section import traces
from sequencematch.storage import files

STYLE = pathlib.Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
COUNTS = ("parameters", "steps", "tokens", "sampled_tokens")  # keys of the summary


def write_report(workdir: pathlib.Path) -> pathlib.Path:
    """Writes report.html from the metrics, summary, traces and scores of a run, those that exist.

    Args:
      workdir: the directory of a finished or running run.

    Returns:
        The page's path. The page is replaced as a whole, so a reader never sees half of it.

    Raises:
        ValueError: summary.json is no JSON object.
        OSError: the page cannot be written.
    """
    return files.write(workdir / "report.html", _page(read(workdir)))


def _page(run: RunFiles) -> str:
    parts = (_header, headline, texts, file_scores, curves, edits, scores, traces, _details)
    body = "\n".join(part(run) for part in parts)
    # The empty icon keeps browsers from asking for a favicon.ico.
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(' · '.join(_title(run)))}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _title(run: RunFiles) -> list[str]:
    """Returns name and method; the directory's name while there is no summary."""
    return [str(run.summary[key]) for key in ("name", "method") if key in run.summary] or [run.name]


def _header(run: RunFiles) -> str:
    title = '<span class="muted"> · </span>'.join(map(escape, _title(run)))
    facts = [f"seed {run.summary['seed']}"] if "seed" in run.summary else []
    facts += [str(run.summary["hardware"])] if "hardware" in run.summary else []
    seconds = object_at(run.summary, "seconds")
    facts += [f"{duration(seconds['total'])} in all"] if "total" in seconds else []
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in _notes(run))
    return (
        f'<header><p class="small">SequenceMatch run</p><h1>{title}</h1>'
        f'<p class="muted">{escape(" · ".join(facts))}</p>{notes}</header>'
    )


def _notes(run: RunFiles) -> Iterator[str]:
    """Yields warnings about an unfinished run or unreadable files."""
    if not run.summary:
        step = f", {run.metrics[-1]['step']:,} steps so far" if run.metrics else ""
        yield f"No summary.json: this run has not finished{step}."
    # --mode=evaluate writes a summary also of a run that was interrupted.
    step = run.summary.get("steps")
    last = object_at(object_at(run.summary, "config"), "train").get("steps")
    if finite_or_nan(step) < finite_or_nan(last):
        yield f"Evaluated after {count(step)} of {count(last)} steps: this run has not finished."
    yield from describe(run.summary)
    if run.unreadable:
        files = "metrics.jsonl, traces.jsonl and scores.jsonl"
        yield f"Lines of {files} left out as unreadable: {run.unreadable}."


def _details(run: RunFiles) -> str:
    summary, config = run.summary, "\n".join(_flatten(object_at(run.summary, "config")))
    facts = [(key, count(summary[key])) for key in COUNTS if key in summary]
    facts += [(f"time, {key}", duration(s)) for key, s in object_at(summary, "seconds").items()]
    facts += _speed(object_at(summary, "speed"))
    facts += object_at(summary, "versions").items()
    facts = "".join(
        f"<div><dt>{escape(k.replace('_', ' '))}</dt><dd>{escape(v)}</dd></div>" for k, v in facts
    )
    command = f"<h3>Command</h3><pre>{escape(summary.get('command'))}</pre>"
    folded = f"<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>"
    blocks = (f"<dl>{facts}</dl>" * bool(facts), command * ("command" in summary))
    return section("The run", "".join(blocks) + folded * bool(config))


def _speed(speed: dict) -> Iterator[tuple[str, str]]:
    """Yields how fast training and sampling were, what that is of the devices, and where time went."""
    forms = {
        "tokens_per_second": ("training", lambda x: f"{count(x)} tokens/s"),
        "sampled_tokens_per_second": ("sampling", lambda x: f"{count(x)} tokens/s"),
        "flops_per_second": ("each device", lambda x: f"{finite_or_nan(x) / 1e9:,.1f} GFLOP/s"),
        "mfu": ("MFU", percent),
    }
    for key, (name, form) in forms.items():
        if key in speed:
            yield name, form(speed[key])
    spent = [f"{name} {percent(share)}" for name, share in object_at(speed, "shares").items()]
    if spent:
        yield "time of training", " · ".join(spent)


def _flatten(config: dict, prefix: str = "") -> Iterator[str]:
    """Yields a line for each value, with the key that --config.key=value takes."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {json.dumps(value, ensure_ascii=False)}"
