"""Whether a quantity grows over a long run: its trend, and a picture of all quantities.

What a step or a save takes for a moment is not growth. So of each five minutes, which hold whole
cycles of saves, the minimum counts. Two quantities dip for a moment and count by their lower
quartile: resident memory, when a save's memory is returned to the system, and Python's objects, of
which 7,000 blocks are gone for two seconds once an hour. A line is fitted to these values, without
the first ten minutes, in which pools fill. A quantity passes only if the slope plus two standard
errors is within its limit.

Why not the second half alone: from save to save, resident memory lies at different levels, and the
uncertainty that this leaves in the slope falls as 1 / (t sqrt(n)) with n saves in t hours. In the
hour at fefe2a4 the standard error was 5.5 MB an hour in the second half, and is 2.1 in all that
counts; the limit is 14.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import linregress

WINDOW = 5.0  # minutes
WARM_UP = 10.0  # minutes that do not count


def lower_quartile(values: np.ndarray) -> float:
    """The value that a quarter of the values lie below."""
    return np.quantile(values, 0.25)


class Quantity(NamedTuple):
    """A quantity that is measured.

    Attributes:
      title, unit: for people.
      rise: how far it may rise in an hour, in its unit or as a share of its median.
      relative: whether `rise` is that share.
      statistic: the value that stands for a window.
    """

    title: str
    unit: str = ""
    rise: float = 1.0
    relative: bool = False
    statistic: Callable[[np.ndarray], float] = np.min


QUANTITIES = {
    "memory": Quantity("Resident memory", "MB", 0.02, True, lower_quartile),
    "allocated": Quantity("Allocated memory", "MB", 0.02, True),
    "blocks": Quantity("Blocks of Python's objects", "thousands", 0.02, True, lower_quartile),
    "handles": Quantity("Open files"),
    "threads": Quantity("Threads"),
    # A single compilation after the warm-up is one too many.
    "compilations": Quantity("Compilations", rise=0.0, statistic=np.max),
    # A checkpoint has 16 files or more, depending on how its writers share the work: the limit is one
    # checkpoint an hour.
    "checkpoints": Quantity("Files of checkpoints", rise=16.0),
    "metrics": Quantity("Files of metrics", "MB", np.inf),  # they have a line for each ten steps
}


def windows(
    quantity: Quantity, minutes: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The middle of each whole window in minutes, and the value that stands for it."""
    numbers = (minutes // WINDOW).astype(int)
    each = np.unique(numbers)
    each = each[WINDOW * (each + 1) <= minutes[-1] + 0.05]  # it may end a sample or two early
    return WINDOW * (each + 0.5), np.array([quantity.statistic(values[numbers == n]) for n in each])


class Trend(NamedTuple):
    """The trend of the windows' values.

    Attributes:
      median: of the values.
      hourly, error: the slope of the fitted line per hour, and its standard error.
    """

    median: float
    hourly: float
    error: float


def fit_trend(minutes: np.ndarray, values: np.ndarray) -> Trend:
    """Fits a line to the values after the warm-up."""
    counts = minutes > WARM_UP
    minutes, values = minutes[counts], values[counts]
    fit = linregress(minutes, values)
    error = 0.0 if np.ptp(values) == 0 else fit.stderr  # scipy returns NaN for a constant
    return Trend(np.median(values), 60 * fit.slope, 60 * error)


def find_problem(quantity: Quantity, trend: Trend) -> str:
    """ "GROWS" if the slope is above the limit, "NOT SHOWN" if only its error is, "" if neither."""
    limit = quantity.rise * (trend.median if quantity.relative else 1.0)
    if trend.hourly + 2 * trend.error <= limit:
        return ""
    return "GROWS" if trend.hourly > limit else "NOT SHOWN"


def row(name: str, samples: list[dict]) -> tuple[str, str]:
    """A row of the table, and the problem with its quantity or ""."""
    minutes, values = (np.array([s.get(key, np.nan) for s in samples]) for key in ("minutes", name))
    quantity = QUANTITIES[name]
    title = f"{f'{quantity.title} {quantity.unit}':<36}"
    if not np.isfinite(values[minutes > WARM_UP]).all():
        return f"{title}{'NOT MEASURED':>64}", "NOT MEASURED"
    trend = fit_trend(*windows(quantity, minutes, values))
    problem = find_problem(quantity, trend)
    first = values[np.isfinite(values)][0]
    figures = (first, trend.median, values[-1], trend.hourly, trend.error)
    return f"{title}{''.join(f'{x:10.2f}' for x in figures)}  {problem}".rstrip(), problem


def draw(samples: list[dict]) -> Figure:
    """One small plot for each quantity."""
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    minutes = [s["minutes"] for s in samples]
    for axes, (name, quantity) in zip(figure.subplots(2, 4).flat, QUANTITIES.items(), strict=True):
        values = [s.get(name, np.nan) for s in samples]
        axes.plot(minutes, values, color="#4c78a8", linewidth=1)
        axes.set_title(f"{quantity.title}{quantity.unit and ', '}{quantity.unit}", fontsize=10)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("minutes of training", fontsize=10)
    return figure
