import pytest

from sequencematch.evaluate.intervals import wilson


# Newcombe (1998), Statistics in Medicine 17, table I, method 3.
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_as_published(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_intervals_contain_the_share():
    for n in (1, 2, 7, 500):
        for right in range(n + 1):
            low, high = wilson(right, n)
            assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1
            assert low < high
