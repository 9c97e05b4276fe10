"""Quantiles of Student's t distribution, without scipy, which alone takes 110 MB of an image."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

_MAX_STEPS = 100_000  # of either iteration; a million degrees of freedom take some hundred
_TINY = 1e-300


@cache
def t_quantile(probability: float, degrees: int) -> float:
    """Where the distribution with `degrees` of freedom reaches a probability in 0.5 to 1, 1 left out.

    Newton's steps from the normal distribution's quantile, which lies below: the tail is convex there, so
    that no step goes too far. ValueError for other probabilities and without a degree of freedom.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"no quantile of {probability} at {degrees} degrees of freedom")
    tail = 1 - probability
    quantile = NormalDist().inv_cdf(probability)
    for _ in range(_MAX_STEPS):
        step = (_tail(quantile, degrees) - tail) / _density(quantile, degrees)
        quantile += step
        if step <= 1e-15 * quantile:
            return quantile
    raise ArithmeticError(f"no quantile of {probability} at {degrees} degrees of freedom was found")


def _density(value: float, degrees: int) -> float:
    scale = _log_gamma_ratio(degrees / 2) - math.log(degrees * math.pi) / 2
    return math.exp(scale - (degrees + 1) / 2 * math.log1p(value * value / degrees))


def _tail(value: float, degrees: int) -> float:
    """How probable more than `value` is, which is not negative: half an incomplete beta function (DLMF 8.17.1)."""
    x = degrees / (degrees + value * value)
    a, b = degrees / 2, 0.5
    if x < (a + 1) / (a + b + 2):
        return _beta(x, 1 - x, a, b) / 2
    return (1 - _beta(value * value / (degrees + value * value), x, b, a)) / 2


def _log_gamma_ratio(z: float) -> float:
    """Log of gamma(z + 1/2) / gamma(z); the difference of two large logarithms would leave few digits."""
    if z < 50:
        return math.lgamma(z + 0.5) - math.lgamma(z)
    return math.log(z) / 2 - 1 / (8 * z) + 1 / (192 * z**3) - 1 / (640 * z**5)


def _beta(x: float, rest: float, a: float, b: float) -> float:
    """I_x(a, b) with rest = 1 - x, one of a and b being 1/2."""
    if x <= 0:
        return 0.0
    scale = _log_gamma_ratio(max(a, b))
    front = math.exp(scale - math.lgamma(0.5) + a * math.log(x) + b * math.log(rest)) / a
    return front * _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """That of the incomplete beta function (DLMF 8.17.22), after Lentz."""
    fraction, up, down = 1.0, 1.0, 0.0
    for step in range(_MAX_STEPS):
        m = step // 2
        if step == 0:
            part = 1.0
        elif step % 2:
            part = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            part = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        down = 1 / ((1 + part * down) or _TINY)
        up = (1 + part / up) or _TINY
        fraction *= up * down
        if step and abs(up * down - 1) < 1e-15:
            break
    return fraction - 1
