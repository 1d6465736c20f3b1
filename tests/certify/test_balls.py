"""Euclidean balls: bounds hold at sampled points, the attack stays inside, and the ladder keeps its laws."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.bounds.margins import MarginBounds
from pipeline.certify import PGD, attack
from pipeline.core import ops
from pipeline.core.outward import Outward
from pipeline.core.threat import L2Ball, LinfBall, Region, concatenate
from pipeline.methods import METHODS
from pipeline.results import Verdict
from tests import nets
from tests.climbing import climb, deployed, images_of, lively


def points(x: torch.Tensor, radius: float, n: int, seed: int) -> torch.Tensor:
    """Points on and inside the sphere around each sample, within [0, 1]."""
    draws = torch.randn(n, *x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    length = draws.flatten(2).norm(dim=2).reshape(n, len(x), *[1] * (x.dim() - 1))
    share = torch.linspace(0.3, 1, n, dtype=torch.float64).reshape(n, *[1] * x.dim())
    return (x + radius * share * draws / length).clamp(0, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eps", ["1/10", "1/2", "2"])
def test_bounds_over_a_ball_hold_at_its_points(method, eps):
    network = nets.conv_net(seed=2)
    x = torch.from_numpy(images_of(network, 4)).double()
    x[0] = 0.0
    ball, exact = L2Ball(Fraction(eps)), network.in_float64()
    labels = exact(x).argmax(1)
    bounds = MarginBounds(exact, Outward(deployed=False), method=method).least(ball.region(x), labels)
    for p in points(x, float(ball.radius), 60, seed=3):
        logits = exact(p)
        own = logits.gather(1, labels[:, None])[:, 0]
        rest = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        assert (bounds <= own - rest).all()


def test_a_ball_is_better_than_its_box_and_contains_its_samples():
    network = nets.mlp(seed=3)
    x = torch.from_numpy(images_of(network, 20)).double()
    exact = network.in_float64()
    labels = exact(x).argmax(1)
    crown = MarginBounds(exact, method="crown")
    inside, around = (crown.least(b(Fraction(1, 20)).region(x), labels) for b in (L2Ball, LinfBall))
    assert (inside >= around).all()
    assert (inside > around + 1e-3).any()


def test_regions_of_many_sizes_bound_as_each_alone():
    network = nets.mlp(seed=3).in_float64()
    x = torch.from_numpy(images_of(network, 6)).double()
    labels = network(x).argmax(1)
    sizes = [Fraction(i, 60) for i in range(1, 7)]
    for kind in (L2Ball, LinfBall):
        parts = [kind(e).region(x[i : i + 1]) for i, e in enumerate(sizes)]
        together = concatenate(parts)
        assert isinstance(together, Region)
        bounds = MarginBounds(network, method="crown-ibp")
        alone = torch.cat([bounds.least(part, labels[i : i + 1]) for i, part in enumerate(parts)])
        assert torch.allclose(bounds.least(together, labels), alone, rtol=1e-12, atol=1e-12)
        assert len(together[torch.tensor([0, 3])].box.center) == 2


@pytest.mark.parametrize("eps", ["1/3", "3/2"])
def test_counterexamples_lie_in_the_exact_ball(eps):
    network = nets.conv_net(seed=10)
    predict, ball = deployed(network), L2Ball(Fraction(eps))
    images = torch.from_numpy(images_of(network, 30))
    images[0], images[1] = 0.0, 1.0
    labels = torch.from_numpy(predict(images.numpy()).argmax(1))
    broken, found, became, _ = attack(network, predict, images, labels, np.arange(30), ball, PGD(steps=20, restarts=2))
    assert broken.any()
    assert (predict(found[broken]).argmax(1) == became[broken]).all()
    assert (became[broken] != labels.numpy()[broken]).all()
    for x, p in zip(images.numpy()[broken], found[broken], strict=True):
        square = sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(x.ravel(), p.ravel(), strict=True))
        assert square <= ball.eps**2
        assert (p >= 0).all()
        assert (p <= 1).all()


def test_a_slope_without_a_value_does_not_end_an_attack():
    """At zero, behind a ReLU that is off, a square root has the slope 0 / 0; the other pixel decides the label."""
    d = nets.Drawing()
    root = d(nn.ReLU(), d(ops.Sub(), d(ops.Sqrt(), d.input(2)), d.constant(torch.tensor([1.0, 0.0]))))
    last = nn.Linear(2, 2)
    network = d.finish(d(last, root), shapes=((None, 2),))
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        last.bias.copy_(torch.tensor([0.6, 0.0]))
    x, labels = torch.tensor([[0.0, 0.25]]).expand(8, 2), torch.zeros(8, dtype=torch.int64)
    found = attack(network, deployed(network), x, labels, np.arange(8), L2Ball(Fraction(1, 5)), PGD())
    assert found.broken.all()


def test_the_ladder_keeps_its_laws_in_l2():
    result = climb(lively(), ("1/20", "1/5", "3/2"), norm="l2", method="crown")
    before = None
    for found, survived in zip(result.samples.verdict, result.samples.survived, strict=True):
        certified = found == Verdict.CERTIFIED
        assert (certified <= survived).all()
        assert before is None or (certified <= before).all()
        before = certified
    assert (result.samples.verdict[0] == Verdict.CERTIFIED).any()
    assert (result.samples.verdict[-1] == Verdict.FALSIFIED).any()
