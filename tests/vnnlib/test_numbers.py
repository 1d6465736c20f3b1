"""Roundings go the way they say, and what is written contains what was meant."""

from __future__ import annotations

from fractions import Fraction as Q

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.vnnlib import above32, above64, below32, below64, counterexample, exact, nearest32, parse, robustness

FRACTIONS = st.fractions(min_value=-(10**20), max_value=10**20, max_denominator=10**12)


@given(FRACTIONS)
def test_neighbours_enclose(q):
    for below, above, kind in ((below64, above64, np.float64), (below32, above32, np.float32)):
        low, high = below(q), above(q)
        assert Q(low) <= q <= Q(high)
        assert kind(low) == low
        assert high in (low, np.nextafter(kind(low), kind(np.inf)))
    assert nearest32(q) in (below32(q), above32(q))
    assert abs(Q(nearest32(q)) - q) == min(q - Q(below32(q)), Q(above32(q)) - q)


def test_nearest_is_not_rounded_twice():
    """Just above the middle of two floats: float64 rounds to the middle, and ties would then go the other way."""
    middle = 1 + Q(1, 2**24)
    assert nearest32(middle) == 1.0
    assert nearest32(middle + Q(1, 2**80)) == 1 + 2.0**-23


@given(st.lists(FRACTIONS, min_size=2, max_size=2).map(sorted), st.integers(0, 2))
def test_a_written_box_contains_the_box(ends, label):
    low, high = ends
    (case,) = parse(robustness([low], [high], label, 3, ["a comment"])).cases
    assert case.lower[0] <= low <= high <= case.upper[0]
    assert low - case.lower[0] < Q(1, 10**25)
    assert {c.terms for (c,) in case.unsafe} == {tuple(sorted([(label, 1), (j, -1)])) for j in range(3) if j != label}


def test_a_label_that_is_none_is_our_fault():
    with pytest.raises(PipelineError):
        robustness([Q(0)], [Q(1)], 3, 3)


def test_counterexamples_as_the_competition_writes_them():
    assert exact(Q(float(np.float32(0.1)))) == "0.100000001490116119384765625"
    assert exact(Q(1, 3)) == "1/3"
    assert counterexample([Q(1, 2), Q(0)], [Q(-3)]) == "sat\n((X_0 0.5)\n (X_1 0)\n (Y_0 -3))\n"
    tiny = Q(float(np.float32(1e-45)))
    assert Q(exact(tiny)) == tiny
