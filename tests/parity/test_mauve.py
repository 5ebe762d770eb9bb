"""MAUVE by the package mauve-text, on features of a tiny model."""

import numpy as np
import pytest
from mauve import compute_mauve

from sequencematch.data.task import Example
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.mauve import SCALE, curve_area, mauve
from sequencematch.evaluate.reference import Reference
from tests.evaluate.model_folder import write_model

pytestmark = pytest.mark.stress


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    write_model(folder)
    return Reference(folder)


def texts(letters, seed, count=80):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice([*letters], size=9)) for _ in range(count)]


def test_texts_of_one_kind_are_nearer_than_those_of_another(reference):
    real = texts("abc ", 0)

    def score(made):
        answers = [
            Answer(Example("", r), [], m, False, True, 0) for r, m in zip(real, made, strict=True)
        ]
        return mauve(reference, [a.example for a in answers], answers)

    same, alike, other = score(real), score(texts("abc ", 1)), score(texts("xyz", 2))
    assert same["mauve"] == pytest.approx(1.0, abs=1e-3)
    assert same["mauve"] > alike["mauve"] > other["mauve"]
    assert alike["mauve_deviation"] > 0 and len(alike["mauve_curve"][0]) == 2
    made_with = alike["mauve_made_with"]
    assert (made_with["texts"], made_with["buckets"], made_with["empty"]) == (80, 4, 0)
    assert made_with["checksum"] == reference.checksum
    low, high = alike["intervals"]["mauve"]
    assert 0 <= low < alike["mauve"] < high <= 1


def test_the_area_of_our_curve_is_that_of_the_package():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.5, 1.0):
        features = [rng.normal(x, size=(200, 6)).astype(np.float32) for x in (0.0, shift)]
        how = dict(num_buckets=10, mauve_scaling_factor=SCALE, verbose=False)
        found = compute_mauve(*features, **how)
        ours = curve_area(found.p_hist, found.q_hist)
        assert ours == pytest.approx(found.mauve, rel=1e-5)
