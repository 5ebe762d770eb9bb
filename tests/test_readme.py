"""The README is short, and what it shows runs as it is."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from docs import figures
from sequencematch.core.types import Episode

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_it_is_short():
    lines = README.splitlines()
    assert len(lines) <= 120
    assert len(README.split()) <= 1200
    assert max(map(len, lines)) <= 160


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (Path(__file__).parents[1] / link).is_file()] == []


def test_its_picture_can_be_drawn():
    """By the code that makes trajectories."""
    axes = Figure().add_subplot()
    figures.draw(axes, figures.make_trajectory())
    times = [label.get_text() for label in axes.get_yticklabels()]
    assert times[1:3] == ["8+9=   2, learn 1", "8+9=2   ⌫"] and times[-1] == "8+9=17   (absorbed)"


def test_the_library_example_runs_on_logits_of_ones_own():
    """[B, T, V] logits of no network of ours: J and rewards are finite, and J has a gradient."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    B, T, V = 2, 6, 9
    tokens = np.array([[1, 5, 6, 3, 7, 2], [1, 4, 8, 2, 0, 0]], np.int32)
    labels = np.array([[5, 7, 3, 7, 2, 2], [4, 8, 2, 2, 2, 2]], np.int32)
    start, end = np.array([1, 0], np.int32), np.array([5, 3], np.int32)
    time = np.arange(T)
    imitate = (start[:, None] <= time) & (time < end[:, None])

    def J(logits):
        names = {"PAD": 0, "BOS": 1, "EOS": 2, "BKSPC": 3, "V": V}
        names["episodes"] = Episode(tokens, labels, imitate, start, end)
        names["network"] = lambda *arrays: logits
        exec(code, names)
        return names["J"], names["r"]

    logits = jax.random.normal(jax.random.key(0), (B, T, V))
    gradient, rewards = jax.jit(jax.grad(J, has_aux=True))(logits)
    assert rewards.shape == (B, T)
    assert np.isfinite(rewards).all()
    assert np.isfinite(gradient).all()
    assert jnp.abs(gradient).max() > 0
