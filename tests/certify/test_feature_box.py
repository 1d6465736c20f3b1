"""Boxes with a radius for each feature: every real point is inside, and what may not move never does."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from pipeline.bounds.margins import MarginBounds
from pipeline.certify import PGD, Certification, Strategy, attack, certify
from pipeline.certify.box_sampling import random_points
from pipeline.core.feature_box import FeatureBox, FeatureRadii
from pipeline.core.rounding import Outward
from pipeline.core.threat import LinfBall
from pipeline.results import Verdict
from tests import nets
from tests.climbing import deployed, images_of, lively


def box_of(shape: tuple[int, ...], seed: int, eps: Fraction = Fraction(1, 3), clip: bool = False) -> FeatureBox:
    """Radii of many sizes, a third of them zero; some features have a range."""
    rng = np.random.default_rng(seed)
    radius = np.where(rng.random(shape) < 1 / 3, 0.0, 10.0 ** rng.uniform(-6, 0, shape))
    radius.flat[0], radius.flat[-1] = 0.3, 0.0
    low = np.where(rng.random(shape) < 0.5, 0.0, -np.inf) if clip else np.full(shape, -np.inf)
    high = np.where(rng.random(shape) < 0.5, 1.0, np.inf) if clip else np.full(shape, np.inf)
    return FeatureBox(eps, features=FeatureRadii(radius, low, high))


def real_ends(x: torch.Tensor, ball: FeatureBox) -> list[tuple[Fraction, Fraction]]:
    """The exact ends of each entry of one sample."""
    found = []
    for i, value in enumerate(x.flatten().tolist()):
        low, high = float(ball.features.low.flat[i]), float(ball.features.high.flat[i])
        v, r = Fraction(value), ball.eps * Fraction(float(ball.features.radius.flat[i]))
        lower = v - r if low == -np.inf else max(v - r, Fraction(low))
        found.append((lower, v + r if high == np.inf else min(v + r, Fraction(high))))
    return found


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_box_contains_every_real_point_and_what_is_fixed_is_a_point(seed, clip):
    x = torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(seed))
    x[0, 0, 1], x[0, 1, 1] = 0.0, 1.0
    ball = box_of((5, 7), seed, clip=clip)
    box = ball.region(x.double()).box
    for i, (lower, upper) in enumerate(real_ends(x[0], ball)):
        c, r = (Fraction(float(v.flatten()[i])) for v in (box.center, box.radius))
        assert c - r <= lower <= upper <= c + r
        assert r > 0 or lower == upper == c, "what is fixed stays exactly, and nothing else does"
    fixed = torch.from_numpy(ball.features.radius == 0)
    assert (box.radius[0, fixed] == 0).all()
    assert (box.radius[0, ~fixed] > 0).all()


@pytest.mark.parametrize("clip", [False, True])
def test_attacks_and_spot_checks_stay_inside_the_real_box(clip):
    network = lively()
    predict, images = deployed(network), torch.from_numpy(images_of(network, 24))
    ball = replace(box_of(images.shape[1:], 5, clip=clip), eps=Fraction(2))
    labels = torch.from_numpy(predict(images.numpy()).argmax(1))
    found = attack(network, predict, images, labels, np.arange(24), ball, PGD(steps=10, restarts=2))
    assert found.broken.any()
    for points in (torch.from_numpy(found.points), *random_points(images, ball, np.random.default_rng(0))):
        for x, point in zip(images, points, strict=True):
            for value, (lower, upper) in zip(point.flatten().tolist(), real_ends(x, ball), strict=True):
                assert lower <= Fraction(value) <= upper


def test_one_radius_for_all_features_is_the_usual_box():
    network = nets.conv_net(seed=2).in_float64()
    x = torch.from_numpy(images_of(network, 6)).double()
    labels, shape = network(x).argmax(1), x.shape[1:]
    same = FeatureRadii(np.ones(shape), np.zeros(shape), np.ones(shape))
    bounds = MarginBounds(network, Outward(deployed=False), method="crown")
    usual, each = (
        bounds.least(ball.region(x), labels)
        for ball in (LinfBall(Fraction(1, 20)), FeatureBox(Fraction(1, 20), features=same))
    )
    assert torch.equal(usual, each)


def test_certificates_hold_in_their_boxes_and_not_in_larger_ones():
    """With the attack off; a box that forgot how far a feature moves would be refuted here."""
    network = lively()
    predict, images = deployed(network), images_of(network, 60)
    labels, ball = predict(images).argmax(1), box_of(images.shape[1:], 1, Fraction(1, 2))
    *_, found = certify(network, predict, images, labels, [ball], Strategy(attack=None, method="crown"))
    assert isinstance(found, Certification)
    rows = np.flatnonzero(found.samples.verdict[0] == Verdict.CERTIFIED)
    assert len(rows) > 5
    x, y, strong = torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]), PGD(steps=40, restarts=4)
    assert not attack(network, predict, x, y, rows, ball, strong).broken.any()
    forgotten = replace(ball, features=replace(ball.features, radius=np.maximum(ball.features.radius, 0.6)))
    assert attack(network, predict, x, y, rows, forgotten, strong).broken.any()
