"""The schedule against its formula, computed in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from pipeline.train.schedule import learning_rate, regulariser_weight, smoothed


def exact(step: int, start: int, end: int, final: Fraction) -> Fraction:
    middle = start + (end - start) // 4
    t = (middle - start) ** 3
    a = final / ((end - middle) * 4 * t + (middle - start) * t)
    if step <= start:
        return Fraction(0)
    if step <= middle:
        return a * (step - start) ** 4
    reached = a * (middle - start) ** 4
    return min(final, reached + 4 * a * t * (step - middle))


@pytest.mark.parametrize(("start", "end"), [(0, 20 * 234), (391, 391 + 80 * 391), (3, 10), (0, 4)])
def test_eps_is_the_paper_s_formula(start: int, end: int) -> None:
    final = Fraction(8, 255)
    for step in {
        *range(start - 2, start + 40),
        *range(end - 5, end + 3),
        (start + end) // 2,
        start + (end - start) // 4,
    }:
        got = smoothed(step, start=start, end=end, final=float(final))
        assert got == pytest.approx(float(exact(step, start, end, final)), rel=1e-12, abs=0)
    assert smoothed(end, start=start, end=end, final=0.3) == 0.3
    values = [smoothed(s, start=start, end=end, final=0.3) for s in range(end + 2)]
    assert all(a <= b for a, b in pairwise(values))


def test_first_steps_of_the_cifar_ramp() -> None:
    first, last = (smoothed(391 + k, start=391, end=81 * 391, final=8 / 255) for k in (1, 391))
    assert 6e-19 < first < 7e-19
    assert 1.4e-8 < last < 1.6e-8


def test_ramps_too_short_for_a_power_part() -> None:
    assert [smoothed(s, start=1, end=4, final=3.0) for s in range(6)] == [0, 0, 1, 2, 3, 3]
    assert [smoothed(s, start=2, end=2, final=0.3) for s in (1, 2, 3)] == [0, 0, 0.3]


def test_lambda_fades_and_the_rate_decays_once_an_epoch_is_over() -> None:
    assert [regulariser_weight(e, final=0.4, weight=0.5) for e in (0.0, 0.1, 0.4)] == [0.5, 0.375, 0.0]
    assert regulariser_weight(0.0, final=0.0, weight=0.5) == 0
    rates = [learning_rate(e, base=1.0, decays=(120, 140), factor=0.2) for e in (1, 120, 121, 140, 141)]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04])
