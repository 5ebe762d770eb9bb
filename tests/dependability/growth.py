"""Whether something grows: the trend of what a long run measured, and a picture of it.

What a step or a save takes for a moment is no growth: of each whole five minutes, which hold whole
cycles of saves, the minimum counts; of what dips for a moment, the lower quartile: resident memory does
when a save's is given back, and once an hour 7,000 blocks are gone for two seconds. To all of these
values but those of the first ten minutes, in which pools fill, a line is fitted. What rises by less
than its limit, even with two standard errors more, is shown not to grow; nothing else passes.

Why not the second half alone: from save to save, resident memory lies at levels of its own, and what
that leaves of uncertainty in the slope falls as 1 / (t sqrt(n)) with n saves in t hours. In the hour at
fefe2a4 its standard error was 5.5 MB an hour in the second half, and is 2.1 in all that counts; 14 is
the limit.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import linregress

WINDOW = 5.0  # minutes
SETTLED = 10.0  # minutes; what was before does not count


def lower_quartile(values: np.ndarray) -> float:
    """What a quarter of the values lie below."""
    return np.quantile(values, 0.25)


class Quantity(NamedTuple):
    """What is measured.

    Attributes:
      title, unit: for people.
      rise: how far it may rise in an hour, in its unit or as a share of its median.
      relative: whether it is that share.
      of: which of the values in five minutes counts.
    """

    title: str
    unit: str = ""
    rise: float = 1.0
    relative: bool = False
    of: Callable[[np.ndarray], float] = np.min


QUANTITIES = {
    "memory": Quantity("Resident memory", "MB", 0.02, True, lower_quartile),
    "allocated": Quantity("Allocated memory", "MB", 0.02, True),
    "blocks": Quantity("Blocks of Python's objects", "thousands", 0.02, True, lower_quartile),
    "handles": Quantity("Open files"),
    "threads": Quantity("Threads"),
    "compilations": Quantity("Compilations", rise=0.0, of=np.max),  # one more is too many
    # One checkpoint has 16 or more, by how its writers shared the work: one more an hour is growth.
    "checkpoints": Quantity("Files of checkpoints", rise=16.0),
    "metrics": Quantity("Files of metrics", "MB", np.inf),  # a line each ten steps
}


def windows(
    quantity: Quantity, minutes: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(its middle, in minutes; the value that counts in it) of each whole window."""
    numbers = (minutes // WINDOW).astype(int)
    each = np.unique(numbers)
    each = each[WINDOW * (each + 1) <= minutes[-1] + 0.05]  # within a sample or two
    return WINDOW * (each + 0.5), np.array([quantity.of(values[numbers == n]) for n in each])


class Trend(NamedTuple):
    """Of windows.

    Attributes:
      median: of their values.
      hourly, error: the slope of their line and its standard error, an hour.
    """

    median: float
    hourly: float
    error: float


def trend(minutes: np.ndarray, values: np.ndarray) -> Trend:
    """The trend of what has settled."""
    settled = minutes > SETTLED
    minutes, values = minutes[settled], values[settled]
    fit = linregress(minutes, values)
    error = 0.0 if np.ptp(values) == 0 else fit.stderr  # of what never changes, scipy knows none
    return Trend(np.median(values), 60 * fit.slope, 60 * error)


def verdict(quantity: Quantity, found: Trend) -> str:
    """Why the quantity is not as it should be, or nothing."""
    limit = quantity.rise * (found.median if quantity.relative else 1.0)
    if found.hourly + 2 * found.error <= limit:
        return ""
    return "GROWS" if found.hourly > limit else "NOT SHOWN"


def row(name: str, samples: list[dict]) -> tuple[str, str]:
    """A row of the table, and its verdict."""
    minutes, values = (np.array([s.get(key, np.nan) for s in samples]) for key in ("minutes", name))
    quantity = QUANTITIES[name]
    title = f"{f'{quantity.title} {quantity.unit}':<36}"
    if not np.isfinite(values[minutes > SETTLED]).all():
        return f"{title}{'NOT MEASURED':>64}", "NOT MEASURED"
    found = trend(*windows(quantity, minutes, values))
    said = verdict(quantity, found)
    figures = (values[np.isfinite(values)][0], found.median, values[-1], found.hourly, found.error)
    return f"{title}{''.join(f'{x:10.2f}' for x in figures)}  {said}".rstrip(), said


def draw(samples: list[dict]) -> Figure:
    """One small picture for each quantity."""
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
