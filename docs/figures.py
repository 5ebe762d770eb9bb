"""Draws docs/trajectory.svg: a trajectory with a `<bkspc>` as the network sees it.

python -m docs.figures
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sequencematch.core import mdp
from sequencematch.core.trajectory import build_trajectory
from sequencematch.core.types import Trajectory
from sequencematch.data.episodes import lay_out
from sequencematch.data.noise import Decisions
from sequencematch.models.attention import is_visible


class Filling(NamedTuple):
    """The ids that fill slots without a token, or a decision, as a tokenizer names them."""

    pad: int
    eos: int


SYMBOLS = ["<pad>", "<bos>", "<eos>", "⌫", "8+9=", "2", "1", "7"]
PROMPT, EXECUTED, LABELS = [1, 4], [5, 3, 6, 7, 2], [6, 3, 6, 7, 2]
SEEN, POPPED, STATE = "#4c78a8", "#e45756", "#f2a03d"


def make_trajectory() -> Trajectory:
    """The trajectory of 8+9=, where a wrong 2 is pushed and deleted, and then 17 is written."""
    actions = mdp.make(len(SYMBOLS), eos=2, pad=0, never=[1], edits={3: 1})
    decisions = Decisions(EXECUTED, LABELS, [True] * 5)
    episode = lay_out(Filling(pad=0, eos=2), PROMPT, decisions, slots=7)
    return jax.device_get(build_trajectory(actions, episode))


def draw(axes: Axes, t: Trajectory) -> None:
    """Draws the interval mask, and for each time a circle at the slot that represents its state."""
    seen, slots = t.visibility, len(t.tokens)
    mask = np.asarray(is_visible(seen.slot, jnp.asarray(seen.visible_until)))
    popped = t.visible_until < slots
    for i, j in zip(*np.nonzero(mask), strict=True):
        colour = POPPED if popped[j] else SEEN
        axes.add_patch(matplotlib.patches.Rectangle((j, i), 0.92, 0.92, color=colour, alpha=0.75))
    for i in range(t.start, t.end + 1):
        centre = (t.state[i] + 0.46, i + 0.46)
        axes.add_patch(matplotlib.patches.Circle(centre, 0.2, color=STATE))
    names = [SYMBOLS[token] for token in t.tokens]
    text = [text_at(t, i) for i in range(slots)]
    axes.set_xticks(np.arange(slots) + 0.46, names, fontsize=10)
    axes.set_yticks(np.arange(slots) + 0.46, text)


def text_at(t: Trajectory, time: int) -> str:
    """The state s_t and the action taken there, with the label if it is another action."""
    if not t.start <= time <= t.end:
        return SYMBOLS[t.tokens[time]]
    top = int(t.state[time])
    seen = [
        j
        for j in range(top + 1)
        if time < t.visible_until[j] and t.positions[j] <= t.positions[top]
    ]
    state = "".join(SYMBOLS[t.tokens[j]] for j in seen[1:] if SYMBOLS[t.tokens[j]] != "<eos>")
    if time == t.end:
        return f"{state}   (absorbed)"
    action, label = SYMBOLS[t.tokens[time + 1]], SYMBOLS[t.actions[time]]
    return f"{state}   {action}" + (f", learn {label}" if action != label else "")


def main() -> None:
    """Writes the picture; the same bits each time, so that git shows only real changes."""
    with matplotlib.rc_context({"svg.hashsalt": "trajectory", "font.size": 12}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        draw(axes, make_trajectory())
        axes.set(xlim=(-0.1, 7.1), ylim=(7.1, -0.1), aspect="equal", frame_on=False)
        axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
        axes.set_xlabel("slot: the token fed, seen as key")
        axes.set_ylabel("time t: text s_t and the action taken")
        path = Path("docs/trajectory.svg")
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
