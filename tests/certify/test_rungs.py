"""Every rung keeps the laws by itself, and what the ladder says follows from what its rungs say."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from pipeline.bounds import margins
from pipeline.certify import DECIDERS, PGD, Strategy, Verdict
from pipeline.certify.prover import Prover
from pipeline.choices import METHODS
from pipeline.core.threat import LinfBall
from pipeline.errors import Contradiction
from pipeline.results.samples import DECIDERS as NAMES
from pipeline.results.samples import VERDICTS
from tests import nets
from tests.climbing import climb, images_of, labels_of, lively

EPS = ("1/500", "1/60", "1/20")
NETWORK = lively()


@pytest.fixture(scope="module")
def by_method():
    return {method: climb(NETWORK, EPS, method=method) for method in (*METHODS, "auto")}


def test_the_names_of_what_decides_are_the_reports_names():
    assert DECIDERS == NAMES
    assert set(METHODS) < set(DECIDERS)
    assert tuple(verdict.name.lower() for verdict in Verdict) == VERDICTS


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_certified_survives_and_is_correct_per_rung(by_method, method):
    result = by_method[method]
    correct = result.predicted == labels_of(NETWORK, images_of(NETWORK, 40))
    for level in result.levels:
        certified = level.verdicts == Verdict.CERTIFIED
        assert (certified <= level.survived).all()
        assert (level.survived <= correct).all()
        assert (level.margins[certified] > 0).all()
        assert ((level.decided_by == 0) == (level.verdicts == Verdict.UNKNOWN)).all()
        by = [DECIDERS[code] for code in level.decided_by[certified]]
        assert set(by) <= set(METHODS[: METHODS.index(method) + 1] if method != "auto" else METHODS)
        assert not level.undecided.any()


def test_each_rung_adds_and_none_takes_away(by_method):
    counts = []
    for method in METHODS:
        levels = by_method[method].levels
        counts.append(sum(int((level.verdicts == Verdict.CERTIFIED).sum()) for level in levels))
        for level, last in zip(levels, by_method["alpha-crown"].levels, strict=True):
            certified, finally_ = level.verdicts == Verdict.CERTIFIED, last.verdicts == Verdict.CERTIFIED
            assert (certified <= finally_).all()
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2], "rungs that add nothing test nothing"


def test_the_order_of_the_rungs_is_no_part_of_any_proof(by_method):
    """What the ladder certifies is what some method proves on all samples at once, from the last to the first."""
    images = images_of(NETWORK, 40)
    labels = labels_of(NETWORK, images)
    prover = Prover(NETWORK, images, labels, Strategy())
    proved = np.zeros((len(EPS), 40), bool)
    for method in reversed(METHODS):
        for i, eps in enumerate(EPS):
            proved[: i + 1] |= prover.margins(method, LinfBall(Fraction(eps)), np.arange(40)) > 0
    for level, expected in zip(by_method["alpha-crown"].levels, proved, strict=True):
        assert ((level.verdicts == Verdict.CERTIFIED) == expected & level.survived).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_rung_that_proves_too_much_is_an_alarm(monkeypatch, method):
    """Every rung bounds some falsified samples too, so that a bound that lies is found out."""
    honest = margins.MarginBounds.least

    def lie(self, region, labels):
        found = honest(self, region, labels)
        return torch.ones_like(found) if self.method == method else found

    monkeypatch.setattr(margins.MarginBounds, "least", lie)
    with pytest.raises(Contradiction, match=r"attack changed|another label"):
        climb(NETWORK, ("1/20",))


def test_the_long_attack_counts_and_spares_what_is_decided():
    weak = PGD(steps=1, restarts=1, step=0.01)
    short = climb(NETWORK, ("1/20",), method="crown-ibp", attack=weak)
    long = climb(NETWORK, ("1/20",), method="crown", attack=weak)
    found = long.levels[0].decided_by == DECIDERS.index("long pgd")
    assert found.any()
    assert (long.levels[0].survived <= short.levels[0].survived).all()
    assert long.levels[0].examined["long pgd"] < 40
    assert set(np.flatnonzero(found)) <= set(long.counterexamples.rows)


def test_auto_leaves_a_rung_that_proves_nothing():
    far = climb(nets.conv_net(seed=4), ("0.3",), n=140, attack=None)
    assert far.levels[0].examined["crown-ibp"] == 32
    named = climb(nets.conv_net(seed=4), ("0.3",), n=140, attack=None, method="crown-ibp")
    assert named.levels[0].examined["crown-ibp"] == 120


def test_an_affine_network_needs_no_second_rung():
    d = nets.Drawing(3)
    network = d.finish(d(torch.nn.Linear(12, 5), d.input(12)), shapes=((None, 5),))
    assert set(climb(network, ("1/50",)).levels[0].examined) == {"pgd", "ibp"}


def test_the_layers_and_the_cost_of_float32_are_told(by_method):
    small, large = by_method["ibp"].levels[0], by_method["ibp"].levels[-1]
    assert [layer.kind for layer in small.layers] == ["ReLU", "ReLU"]
    for a, b in zip(small.layers, large.layers, strict=True):
        assert a.unstable <= b.unstable
        assert a.mean_radius < b.mean_radius
        assert a.unstable + a.active + a.inactive == pytest.approx(1)
    assert small.rounding.largest > 0
    assert small.rounding.certified <= small.rounding.certified_in_real
