"""MAUVE's divergence curves as inline SVG, in the style of the other figures of a report."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sequencematch.evaluate.plots import CURVES, draw_svg, escape_unprintable, finite_or_nan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEANING = (
    "exp(−c KL) of generated texts (across) and of real ones (up) to their mixtures, for the first "
    "seed of k-means. The area under a curve is MAUVE with that seed: a curve near the upper right "
    "corner belongs to texts that are like real ones."
)


def divergence_figure(curves: Mapping[str, Sequence[Any]]) -> str:
    """Returns a <figure> of the curves, by name, the first three that have points; "" for none.

    A curve is the points (exp(-c KL(Q‖R)), exp(-c KL(P‖R))) for mixtures R of the real texts' P and the
    generated ones' Q (Pillutla et al. 2021, equation 1).
    """
    known = {name: points for name, each in curves.items() if len(points := _points(each)) > 1}
    shown = dict(list(known.items())[: len(CURVES)])
    if not shown:
        return ""
    legend = "".join(
        f'<span><i style="background:var(--curve-{i})"></i>{html.escape(name)}</span>'
        for i, name in enumerate(map(escape_unprintable, shown))
    )
    left_out = f" The first {len(shown)} of {len(known)} files." * (len(known) > len(shown))
    return (
        f'<figure><h3>MAUVE</h3><p class="legend">{legend}</p>{_svg([*shown.values()])}'
        f"<figcaption>{html.escape(MEANING + left_out)}</figcaption></figure>"
    )


def _points(curve: Sequence[Any]) -> np.ndarray:
    """The points of a curve that are two numbers in [0, 1], from left to right."""
    pairs = [point for point in curve if isinstance(point, list) and len(point) == 2]
    found = np.array([[finite_or_nan(x) for x in pair] for pair in pairs]).reshape(-1, 2)
    found = found[((found >= 0) & (found <= 1)).all(axis=1)]
    return found[np.lexsort((-found[:, 1], found[:, 0]))]


def _svg(curves: Sequence[np.ndarray]) -> str:
    def plot(axes: "Axes") -> None:
        for colour, points in zip(CURVES, curves, strict=False):
            axes.plot(*points.T, color=colour)
        # A margin, so that a curve along an edge is seen whole.
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="generated to mixture", aspect=1)
        axes.set_ylabel("real to mixture")

    return draw_svg(plot, (3.6, 3.6), "mauve", "MAUVE's divergence curve")
