"""The section of a report that shows answers, action by action, with what the model thinks of each."""

from typing import NamedTuple

import numpy as np

from sequencematch.evaluate.plots import finite_or_nan
from sequencematch.evaluate.records import RunFiles
from sequencematch.evaluate.sections import decimal, escape, list_at, section, ways

TRACES_SHOWN = 12
LARGEST = 1e9  # of values and rewards: beyond it a file is damaged

# How actions that are not text are shown.
MARKS = {"<bkspc>": "⌫", "<bkspc2>": "⌫2", "<bkspc4>": "⌫4", "<reset>": "↺", "<eos>": "⊣"}

# What they do, for the legend, which lists them in this order.
MEANINGS = {
    "<bkspc>": "deletes the last token that is left",
    "<bkspc2>": "the last two",
    "<bkspc4>": "the last four",
    "<reset>": "deletes all that was written",
    "<eos>": "ends the answer",
}

# Whether an answer is right -> the style of its card, which is also its caption, and a sign for
# those who cannot tell the colours apart.
SIGNS = {True: ("right", "✓"), False: ("wrong", "✗")}


class Tint(NamedTuple):
    """What colours mean: the same on all of a page.

    Attributes:
      low, high: values V that are palest and deepest; a twentieth of all lies below, and above.
      reach: size of a reward r that is deepest.
    """

    low: float
    high: float
    reach: float

    def attributes(self, value: float, reward: float, name: str = "") -> str:
        """The attributes of an action's element, and its name; without value and reward that alone."""
        if np.isnan(value + reward):
            return f' title="{escape(name)}"' * bool(name)
        share = np.clip((value - self.low) / max(self.high - self.low, 1e-9), 0, 1)
        depth = np.clip(abs(reward) / max(self.reach, 1e-9), 0, 1)
        loss = ' class="loss"' * bool(reward < 0)
        parts = [escape(name)] * bool(name) + [f"V {decimal(value)}, reward {decimal(reward)}"]
        shown = ", ".join(parts)
        return f'{loss} style="--v:{100 * share:.0f};--r:{100 * depth:.0f}" title="{shown}"'


def traces(run: RunFiles) -> str:
    """Shows answers action by action, with deleted tokens struck through."""
    tint = _tint(run.traces)
    groups = "".join(_group(decode, run.traces, tint) for decode in ways(run))
    legend = _legend(run.traces) + _choice(tint)
    return section("Sample traces", groups and legend + groups)


def _numbers(trace: dict, key: str) -> np.ndarray:
    found = np.array([finite_or_nan(x) for x in list_at(trace, key)], float)
    return np.where(np.abs(found) < LARGEST, found, np.nan)


def _tint(traces: list[dict]) -> Tint:
    """What the colours of these traces mean; not finite if none has values and rewards."""
    values, rewards = (
        np.concatenate([np.zeros(0), *(_numbers(trace, key) for trace in traces)])
        for key in ("values", "rewards")
    )
    values, rewards = values[np.isfinite(values)], np.abs(rewards[np.isfinite(rewards)])
    if not len(values) or not len(rewards):
        return Tint(np.nan, np.nan, np.nan)
    return Tint(*np.quantile(values, (0.05, 0.95)), np.quantile(rewards, 0.95))


def _choice(tint: Tint) -> str:
    """Lets the reader choose what the colour of actions is; "" if there are no values."""
    if np.isnan(tint.low):
        return ""
    choices = {
        "none": "none",
        "value": f"value V before it, pale {decimal(tint.low)} to deep {decimal(tint.high)}",
        "reward": f"reward r = Q − γV′, a gain or a loss, deep from ±{decimal(tint.reach)}",
    }
    inputs = "".join(
        f'<label><input type="radio" name="tint" id="tint-{name}"{" checked" * (name == "none")}> '
        f"{escape(text)}</label>"
        for name, text in choices.items()
    )
    return f'<form class="legend tint"><span>Colour of an action:</span>{inputs}</form>'


def _legend(traces: list[dict]) -> str:
    """Explains the marks that occur in the traces."""
    used = {str(action) for trace in traces for action in list_at(trace, "actions")}
    entries = [f"{MARKS[name]} {meaning}" for name, meaning in MEANINGS.items() if name in used]
    entries += ["what was deleted is <del>struck through</del>"]
    # The order is that of cli/figures.py, where half of the traces have edits if enough answers do.
    order = " Answers with edits come first, and are a larger share here than of all answers."
    return f"<p>{'; '.join(entries)}.{order * bool(used & set(MARKS) - {'<eos>'})}</p>"


def _group(decode: str, traces: list[dict], tint: Tint) -> str:
    """Shows the first traces of one way of decoding, and the others folded."""
    items = [_trace(trace, tint) for trace in traces if trace.get("decode") == decode]
    shown, more = "".join(items[:TRACES_SHOWN]), "".join(items[TRACES_SHOWN:])
    rest = f"<summary>{len(items) - TRACES_SHOWN} more, {escape(decode)}</summary>"
    folded = f'<details>{rest}<ol class="panels">{more}</ol></details>' * bool(more)
    return f'<h3>{escape(decode)}</h3><ol class="panels">{shown}</ol>{folded}' * bool(items)


def _trace(trace: dict, tint: Tint) -> str:
    if "right" not in trace and "answer" in trace:
        return _text(trace, tint)
    right = trace.get("right")
    name, sign = SIGNS[right] if isinstance(right, bool) else ("not checked", "?")
    answer = f" · <span>right answer: <code>{escape(trace.get('answer', '–'))}</code></span>"
    return (
        f'<li class="card {name}"><p class="sign"><b>{sign}</b> {name}</p>'
        f'<p>{escape(trace.get("prompt", ""))}</p><p class="actions">{_actions(trace, tint)}</p>'
        f'<p class="small">text: <code>{escape(trace.get("text", ""))}</code>'
        f"{answer * (right is False)}</p></li>"
    )


def _text(trace: dict, tint: Tint) -> str:
    """A text that may go on in any way, beside the real one."""
    prompt = f'<span class="muted">{escape(trace.get("prompt", ""))}</span>'
    return (
        f'<li class="card text"><div><h4>generated</h4>'
        f'<p class="actions">{prompt}{_actions(trace, tint)}</p></div>'
        f'<div><h4>real</h4><p class="actions">{prompt}{escape(trace["answer"])}</p></div></li>'
    )


def _actions(trace: dict, tint: Tint) -> str:
    """The actions of a trace, each an element."""
    actions = [str(action) for action in list_at(trace, "actions")]
    deleted = {time for time, flag in enumerate(list_at(trace, "deleted")) if flag}
    values, rewards = (
        np.pad(found, (0, len(actions)), constant_values=np.nan)
        for found in (_numbers(trace, "values"), _numbers(trace, "rewards"))
    )
    shown = []
    for time, action in enumerate(actions):
        tag = "kbd" if action in MARKS else "del" if time in deleted else "span"
        attributes = tint.attributes(values[time], rewards[time], action if tag == "kbd" else "")
        shown.append(f"<{tag}{attributes}>{MARKS.get(action) or escape(action)}</{tag}>")
    return "".join(shown)
