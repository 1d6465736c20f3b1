"""Each sample's largest certified eps: certified there, and one step further not."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipeline.certify import TOLERANCE, Strategy, Work
from pipeline.certify.prover import Prover
from pipeline.core.threat import BALLS
from pipeline.results import Verdict
from tests.climbing import climb, images_of, labels_of, lively

NETWORK = lively()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_the_value_is_certified_and_the_next_is_not(norm, method):
    result = climb(NETWORK, ("1/40",), n=8, norm=norm, method=method, largest_eps=True)
    samples, (ball,) = result.samples, result.balls
    images = images_of(NETWORK, 8)
    labels = labels_of(NETWORK, images)
    correct = samples.predicted == labels
    assert np.isnan(samples.largest_eps[~correct]).all()
    prover = Prover(NETWORK, images, labels, Strategy())
    for i in np.flatnonzero(correct):
        found = Fraction(samples.largest_eps[i])
        at, beyond = (
            float(prover.margins(method, BALLS[norm](eps), np.array([i]))[0]) for eps in (found, found + TOLERANCE)
        )
        assert at > 0
        broken = samples.survived is not None and not samples.survived[0, i] and found + TOLERANCE >= ball.eps
        assert beyond <= 0 or broken
        assert (samples.verdict[0, i] == Verdict.CERTIFIED) <= (found + TOLERANCE > ball.eps)
        assert (samples.verdict[0, i] == Verdict.FALSIFIED) <= (found < ball.eps)


def test_a_better_method_reaches_further():
    both = (climb(NETWORK, ("1/40",), n=8, method=m, largest_eps=True) for m in ("ibp", "crown-ibp"))
    ibp, crown = (found.samples.largest_eps for found in both)
    correct = ~np.isnan(ibp)
    assert (ibp[correct] <= crown[correct]).all()
    assert (ibp[correct] < crown[correct]).any()


def test_without_time_there_is_no_eps():
    found = climb(NETWORK, ("1/40",), n=8, largest_eps=True, work=Work(budget=0.0)).samples.largest_eps
    assert np.nanmax(found) == 0


def test_a_margin_that_is_not_finite_certifies_no_eps(monkeypatch):
    monkeypatch.setattr(Prover, "margins", lambda self, method, ball, rows, **how: np.full(len(rows), np.inf))
    assert np.nanmax(climb(NETWORK, ("1/40",), n=8, method="ibp", largest_eps=True).samples.largest_eps) == 0
