"""A run's curves as inline SVG, with colours from the page's style sheet.

Every panel is a figure of its own, so that a page can use as many columns as fit. Every colour is a
variable of the style sheet, so that one drawing serves light and dark mode.
"""

import html
import io
import itertools
import math
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sequencematch.evaluate.metrics import is_share

# matplotlib takes most of a second to import, so what draws imports it: most commands draw nothing.
if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholder colours for matplotlib, replaced by variables of the style sheet after drawing.
# None is black: matplotlib leaves black out of the SVG, and there would be nothing to replace.
MUTED, LINE = "#010203", "#010204"
CURVES = ("#010205", "#010206", "#010207")

VARIABLES = {MUTED: "var(--muted)", LINE: "var(--line)"} | {
    colour: f"var(--curve-{i})" for i, colour in enumerate(CURVES)
}

RC = {
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED
    ),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), LINE),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.linewidth": 0.6},
    **{"ytick.major.size": 0, "ytick.minor.size": 0, "lines.markersize": 3, "font.size": 9},
    "svg.fonttype": "none",  # text stays text: it can be searched, and uses the page's font
}


class Panel(NamedTuple):
    """One small figure over training steps.

    Attributes:
      title: what is drawn.
      meaning: one sentence for the reader.
      curves: at most three metrics and their labels.
      form: format of the numbers on the vertical axis.
      limits: of the vertical axis; None fits the data.
      scale: "linear", or "log" for positive values that span decades.
      kind: of the lines of metrics.jsonl to read, "train" or "validation".
    """

    title: str
    meaning: str
    curves: dict[str, str]
    form: str = "{x:.3g}"
    limits: tuple[float, float] | None = None
    scale: str = "linear"
    kind: str = "train"


SECTIONS = {
    "Learning": (
        Panel(
            "Loss",
            "L = β·BC − (1 − β)·J, and its behavioural cloning term.",
            {"loss": "loss", "bc": "BC"},
        ),
        Panel("Objective", "J, maximised once β < 1.", {"objective": "J"}),
    ),
    "Values, rewards and temporal differences": (
        Panel(
            "Value",
            "V(s) = logsumexp ℓ(·|s), also at the first decision alone, and Q = ℓ(a|s).",
            {
                "value/mean": "V, mean and range",
                "value/start": "V at the start",
                "q/mean": "Q, mean",
            },
        ),
        Panel(
            "Implied reward",
            "r = ℓ(a|s) − γV(s′) on the data and on the policy's samples.",
            {"reward/mean": "data, mean and range", "policy/reward_mean": "samples, mean"},
        ),
        Panel(
            "Temporal difference",
            "V(s) − γV(s′) over the steps of the data.",
            {"td/mean": "mean", "td/rms": "root mean square"},
        ),
        Panel(
            "Capped rewards",
            "Share of steps whose reward is so low that φ continues with its largest slope.",
            {"reward/capped": "share"},
            form="{x:.0%}",
            limits=(-0.04, 1.04),  # a margin, so that a curve at 0 or 1 is seen whole
        ),
    ),
    "Samples from the policy": (
        Panel("Length", "Actions in a sample.", {"policy/length": "mean"}),
        Panel("Edits", "Share of actions.", {"policy/edits": "edits"}, form="{x:.1%}"),
        Panel("Age", "Steps since the replayed samples were drawn.", {"replay/age": "mean"}),
    ),
    "Optimisation": (
        Panel("Gradient norm", "Over all parameters.", {"gradient_norm": "norm"}, scale="log"),
        Panel("Learning rate", "Of the optimiser.", {"learning_rate": "rate"}),
        Panel("Weight of BC", "β in the loss.", {"beta": "β"}, limits=(-0.04, 1.04)),
    ),
    "Cost": (
        Panel(
            "Throughput",
            "Trajectory tokens trained on in a second.",
            {"tokens_per_second": "tokens/s"},
            form="{x:,.0f}",
        ),
        Panel(
            "Tokens",
            "So far, in trajectories trained on and in samples drawn.",
            {"tokens": "trained on", "sampled_tokens": "sampled"},
            form="{x:,.0f}",
        ),
    ),
}

# Metric -> the two that bound the shaded band around its curve; of others, KEY_low and KEY_high.
BANDS = {
    "value/mean": ("value/min", "value/max"),
    "reward/mean": ("reward/min", "reward/max"),
}


def groups_of_panels(judged_by: str, metrics: list[dict]) -> dict[str, tuple[Panel, ...]]:
    """Returns the panels by section; the first is of the figure that the run is judged by."""
    keys = {f"{judged_by}/{choice}": choice for choice in ("greedy", "sampled")}
    known = [f"{key}{end}" for key in keys for end in ("", "_low", "_high")]
    found = (finite_or_nan(line[key]) for line in metrics for key in known if key in line)
    shape = {"form": "{x:.0%}", "limits": (0, 1)} if is_share(judged_by, found) else {}
    meaning = "Of the text after deletions, with its 95 % interval if it has one."
    panel = Panel(
        escape_unprintable(f"Validation {judged_by}"), meaning, keys, kind="validation", **shape
    )
    return {**SECTIONS, "Learning": (panel, *SECTIONS["Learning"])}


def finite_or_nan(value: object) -> float:
    """Returns a value as a float; NaN if it is not a finite number."""
    # By comparison, since float() of an integer beyond the largest float raises.
    if not isinstance(value, int | float) or not -sys.float_info.max <= value <= sys.float_info.max:
        return math.nan
    return float(value)


def escape_unprintable(text: str) -> str:
    """Returns a text with unprintable characters, but for newlines, as escapes.

    Some of them are invisible or change the direction of text, and some are not allowed in HTML.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def figures(panels: tuple[Panel, ...], metrics: list[dict]) -> str:
    """Returns the panels that `metrics` has data for, as <figure> elements; "" if there are none."""
    return "".join(_figure(panel, metrics) for panel in panels)


def _figure(panel: Panel, metrics: list[dict]) -> str:
    lines = [line for line in metrics if line.get("kind") == panel.kind]
    keys = [key for key in panel.curves if any(key in line for line in lines)]
    if not keys:
        return ""
    gaps = sum(math.isnan(finite_or_nan(line.get(key, 0))) for key in keys for line in lines)
    note = f" Gaps: {gaps} values that are not finite." if gaps else ""
    legend = "".join(_legend(i, panel.curves[key]) for i, key in enumerate(keys))
    return (
        f'<figure><h3>{html.escape(panel.title)}</h3><p class="legend">{legend}</p>'
        f"{_svg(panel, keys, lines, metrics)}"
        f"<figcaption>{html.escape(panel.meaning + note)}</figcaption></figure>\n"
    )


def _legend(index: int, label: str) -> str:
    swatch = f'<i style="background:var(--curve-{index})"></i>'
    return f"<span>{swatch}{html.escape(label)}</span>"


def _phases(metrics: list[dict]) -> list[tuple[str, float]]:
    """Returns each phase of training after the first, and the step of the last record before it."""
    steps = [
        (escape_unprintable(str(line["phase"])), line["step"])
        for line in metrics
        if "phase" in line
    ]
    pairs = itertools.pairwise(steps)
    return [(now[0], before[1]) for before, now in pairs if before[0] != now[0]]


def _svg(panel: Panel, keys: list[str], lines: list[dict], metrics: list[dict]) -> str:
    """Returns a panel's SVG element; a function of the arguments alone, to the byte."""

    def plot(axes: "Axes") -> None:
        for colour, key in zip(CURVES, keys, strict=False):
            _draw(axes, key, colour, lines)
        _format_axes(axes, panel)
        _mark_phases(axes, metrics)

    name = re.sub("[^a-z]+", "-", panel.title.lower())
    return draw_svg(plot, (3.6, 2.1), name, panel.title)


def draw_svg(
    plot: Callable[["Axes"], None], inches: tuple[float, float], name: str, title: str
) -> str:
    """Returns what `plot` draws as an SVG element, whose ids begin with `name`."""
    from matplotlib import style
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    # The salt makes ids reproducible; the default style ignores a user's matplotlibrc.
    with style.context(["default", RC | {"svg.hashsalt": name}]):
        figure = Figure(figsize=inches, layout="constrained")
        plot(figure.subplots())
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return embed(buffer.getvalue(), name, title)


def _draw(axes: "Axes", key: str, colour: str, lines: list[dict]) -> None:
    columns = ("step", key, *BANDS.get(key, (f"{key}_low", f"{key}_high")))
    rows = [
        [finite_or_nan(line.get(column)) for column in columns] for line in lines if key in line
    ]
    steps, values, low, high = np.array(rows).T
    # Markers, since a point between two gaps has no line.
    axes.plot(steps, values, color=colour, marker="o" if len(rows) <= 24 else "")
    if np.isfinite(low + high).any():
        axes.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)


def _format_axes(axes: "Axes", panel: Panel) -> None:
    """Sets scales, limits and number formats."""
    from matplotlib import ticker

    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    values = values[np.isfinite(values)]
    if panel.scale == "log" and values.size and values.min() > 0:
        axes.set_yscale("log")
        # With less than two decades, ticks at powers of ten alone would be too few.
        narrow = values.max() < 100 * values.min()
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set(ylim=panel.limits, xlabel="step")
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter(panel.form))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))


def _mark_phases(axes: "Axes", metrics: list[dict]) -> None:
    """Draws a dashed line where a phase begins, and gives every panel the same range of steps."""
    left, right = metrics[0]["step"], metrics[-1]["step"]
    for phase, step in _phases(metrics):
        # The name goes where there is more room for it.
        side = "right" if step > left + 0.6 * (right - left) else "left"
        axes.axvline(step, color=MUTED, linestyle=(0, (3, 3)), linewidth=0.8)
        above = axes.get_xaxis_transform()
        # The name comes from a file: a dollar sign in it does not start a formula.
        axes.text(step, 1.02, phase, transform=above, ha=side, size=8, parse_math=False)
    margin = 0.02 * (right - left) or 0.5
    axes.set_xlim(left - margin, right + margin)


def embed(svg: str, name: str, label: str) -> str:
    """Turns a stand-alone SVG file into an element of a page that holds several."""
    svg = svg[svg.index("<svg") :]
    # Its style sheet is about "*", in a page every element; report.css has "svg *" instead.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    # Ids are unique in a file, and have to be in the page.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # The view box keeps the proportions, the page gives the width.
    head = f'<svg role="img" aria-label="{html.escape(label)}"'
    svg = re.sub(r'<svg( width="\S+"| height="\S+")*', head, svg, count=1)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
