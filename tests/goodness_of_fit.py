"""A chi-square test of counts, for tests of random draws at a fixed seed."""

import numpy as np
import scipy.stats


def assert_counts_fit(counts, probabilities):
    """Asserts that the counts may be draws with these probabilities: p > 1e-3."""
    counts, probabilities = np.asarray(counts), np.asarray(probabilities)
    assert counts.shape == probabilities.shape
    expected = counts.sum() * probabilities
    assert expected.min() > 5, "too few draws to tell"
    np.testing.assert_allclose(probabilities.sum(), 1)
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3
