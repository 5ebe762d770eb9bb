"""Confidence intervals."""

from math import sqrt


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Returns the score interval of the share right/n (Wilson 1927), of 95 % for this z."""
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    # Unlike share ± z·σ, this interval has a width even where all are right or all are wrong.
    half = z * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # Rounding could leave [0, 1] by an ulp.
    return max(middle - half, 0.0), min(middle + half, 1.0)
