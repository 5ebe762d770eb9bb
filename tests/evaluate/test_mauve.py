"""The divergence curve of MAUVE by a plain loop, and how sure its area is, by drawing texts anew."""

import math

import jax
import numpy as np
import pytest

from sequencematch.evaluate.mauve import SCALE, curve_area, text_deviation

BUCKETS, TEXTS = 30, 600


def area(p, q):
    """Pillutla et al. 2021, equation 2: points, trapezoids, nothing else."""

    def divergence(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x)

    points = [(1.0, 0.0)]
    for mixture in np.linspace(1e-6, 1 - 1e-6, 25):
        r = [mixture * x + (1 - mixture) * y for x, y in zip(p, q, strict=True)]
        points.append(tuple(math.exp(-SCALE * divergence(a, r)) for a in (q, p)))
    points.append((0.0, 1.0))
    pairs = zip(points[:-1], points[1:], strict=True)
    return sum((x0 - x1) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairs)


def distributions(spread, seed=0):
    """Two distributions, the further apart the larger the spread."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(BUCKETS, 3.0))
    q = p * np.exp(spread * rng.normal(size=BUCKETS))
    return p, q / q.sum()


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_the_area_is_that_of_the_paper(spread):
    p, q = distributions(spread)
    p[:3], q[2:5] = 0, 0  # a bucket of neither, and some of one
    p, q = p / p.sum(), q / q.sum()
    assert curve_area(p, q) == pytest.approx(area(p, q), rel=1e-5)
    assert curve_area(p, q) == pytest.approx(float(curve_area(q, p)), rel=1e-5)


@pytest.mark.parametrize("spread, close", [(0.8, 0.1), (0.3, 0.25)])
def test_its_deviation_is_that_of_texts_drawn_anew(spread, close):
    """To first order: near 1, where the slope vanishes, less exactly."""
    p, q = distributions(spread)
    rng = np.random.default_rng(1)
    drawn = [rng.multinomial(TEXTS, each, 2000) / TEXTS for each in (p, q)]
    areas = jax.jit(jax.vmap(curve_area))(*drawn)
    told = [
        text_deviation(x, y, TEXTS) for x, y in zip(*(each[:30] for each in drawn), strict=True)
    ]
    assert np.mean(told) == pytest.approx(float(np.std(areas)), rel=close)


def test_it_shrinks_with_the_root_of_the_number_of_texts():
    p, q = distributions(1.0)
    assert text_deviation(p, q, 400) == pytest.approx(text_deviation(p, q, 100) / 2)
