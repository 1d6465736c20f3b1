"""Every rung keeps the laws by itself, and what the ladder says follows from what its rungs say."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from pipeline.bounds import margins, splits
from pipeline.bounds.ascent import SearchBounds
from pipeline.certify import PGD, Strategy
from pipeline.certify.prover import Prover
from pipeline.core.threat import LinfBall
from pipeline.errors import Contradiction
from pipeline.methods import METHODS, bounding, up_to
from pipeline.results import DECIDERS, Verdict
from tests import nets
from tests.climbing import climb, images_of, labels_of, lively

EPS = ("1/500", "1/60", "1/20")
NETWORK = lively()


@pytest.fixture(scope="module")
def by_method():
    return {method: climb(NETWORK, EPS, method=method) for method in (*METHODS, "auto")}


def test_every_method_may_decide():
    assert set(METHODS) < set(DECIDERS)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_certified_survives_and_is_correct_per_rung(by_method, method):
    samples = by_method[method].samples
    correct = samples.predicted == labels_of(NETWORK, images_of(NETWORK, 40))
    certified = samples.verdict == Verdict.CERTIFIED
    assert (certified <= samples.survived).all()
    assert (samples.survived <= correct).all()
    assert (samples.margin_lower[certified] > 0).all()
    assert ((samples.decided_by == 0) == (samples.verdict == Verdict.UNKNOWN)).all()
    by = {DECIDERS[code] for code in samples.decided_by[certified]}
    assert by <= set(up_to(method))
    assert samples.undecided is None


def test_each_rung_adds_and_none_takes_away(by_method):
    counts = []
    for method in METHODS:
        certified = by_method[method].samples.verdict == Verdict.CERTIFIED
        counts.append(int(certified.sum()))
        assert (certified <= (by_method["complete"].samples.verdict == Verdict.CERTIFIED)).all()
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2], "rungs that add nothing test nothing"


def test_the_order_of_the_rungs_is_no_part_of_any_proof(by_method):
    """What the ladder certifies is what some method proves on all samples at once, from the last to the first."""
    images = images_of(NETWORK, 40)
    labels = labels_of(NETWORK, images)
    prover = Prover(NETWORK, images, labels, Strategy())
    proved = np.zeros((len(EPS), 40), bool)
    for method in bounding(reversed(METHODS)):
        for i, eps in enumerate(EPS):
            proved[: i + 1] |= prover.margins(method, LinfBall(Fraction(eps)), np.arange(40)) > 0
    samples = by_method["alpha-crown"].samples
    assert ((samples.verdict == Verdict.CERTIFIED) == proved & samples.survived).all()


@pytest.mark.parametrize("method", bounding(METHODS))
def test_a_rung_that_proves_too_much_is_an_alarm(monkeypatch, method):
    """Every rung bounds some falsified samples too, so that a bound that lies is found out."""
    honest = margins.MarginBounds.least

    def lie(self, region, labels):
        found = honest(self, region, labels)
        return torch.ones_like(found) if self.method.name == method else found

    monkeypatch.setattr(margins.MarginBounds, "least", lie)
    with pytest.raises(Contradiction, match=r"attack changed|another label"):
        climb(NETWORK, ("1/20",))


def test_branch_and_bound_that_proves_too_much_is_an_alarm(monkeypatch):
    improved, proved = SearchBounds.improved, splits.SplitBounds.proved

    def lie(self, *given):
        domains = improved(self, *given)
        return replace(domains, lower=domains.lower.abs())

    monkeypatch.setattr(SearchBounds, "improved", lie)
    monkeypatch.setattr(splits.SplitBounds, "proved", lambda self, *given, **more: proved(self, *given, **more).abs())
    with pytest.raises(Contradiction, match=r"attack changed|another label"):
        climb(NETWORK, ("1/20",), method="complete")


def test_the_long_attack_counts_and_spares_what_is_decided():
    weak = PGD(steps=1, restarts=1, step=0.01)
    short = climb(NETWORK, ("1/20",), method="crown-ibp", attack=weak)
    long = climb(NETWORK, ("1/20",), method="crown", attack=weak)
    found = long.samples.decided_by[0] == DECIDERS.index("long pgd")
    assert found.any()
    assert (long.samples.survived <= short.samples.survived).all()
    assert dict(long.details[0].rungs)["long pgd"] < 40
    assert set(np.flatnonzero(found)) <= set(long.samples.counterexamples.index)


def test_auto_leaves_a_rung_that_proves_nothing():
    far = climb(nets.conv_net(seed=4), ("0.3",), n=35, attack=None, domains=2)
    assert dict(far.details[0].rungs)["crown-ibp"] == 4
    named = climb(nets.conv_net(seed=4), ("0.3",), n=35, attack=None, method="crown-ibp")
    assert dict(named.details[0].rungs)["crown-ibp"] == 30


def test_an_affine_network_needs_no_second_rung():
    d = nets.Drawing(3)
    network = d.finish(d(torch.nn.Linear(12, 5), d.input(12)), shapes=((None, 5),))
    assert set(dict(climb(network, ("1/50",)).details[0].rungs)) == {"pgd", "ibp"}


def test_the_layers_and_the_cost_of_float32_are_told(by_method):
    small, large = by_method["ibp"].details[0], by_method["ibp"].details[-1]
    assert [layer.kind for layer in small.layers] == ["ReLU", "ReLU"]
    for a, b in zip(small.layers, large.layers, strict=True):
        assert a.unstable <= b.unstable
        assert a.mean_radius < b.mean_radius
        assert a.unstable + a.active + a.inactive == pytest.approx(1)
    assert small.rounding.largest > 0
    assert small.rounding.certified <= small.rounding.certified_in_real
