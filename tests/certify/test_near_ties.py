"""Margins planted next to zero: minima by enumeration, of which none below zero is proved, and every one above."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.bounds.ascent import SearchBounds
from pipeline.bounds.margins import MarginBounds
from pipeline.certify.complete import margins_decided
from pipeline.certify.decision import Decision
from pipeline.choices import Mode
from pipeline.core.network import Network
from pipeline.core.rounding import rounding_of
from pipeline.core.threat import LinfBall
from tests import nets

WIDTH, INPUTS, CLASSES = 4, 2, 3
BALL = LinfBall(Fraction(1, 5))


def nobody(points: Tensor) -> tuple[Tensor, np.ndarray]:
    """A judge that finds no counterexample."""
    return points, np.zeros(len(points), bool)


class Tie:
    """Two layers of ReLUs over a square, a label, and the least margin over the ball."""

    def __init__(self, seed: int):
        d = nets.Drawing(seed)
        x = d.input(INPUTS)
        for a, b in ((INPUTS, WIDTH), (WIDTH, WIDTH)):
            x = d(nn.ReLU(), d(nn.Linear(a, b), x))
        self.network: Network = d.finish(d(nn.Linear(WIDTH, CLASSES), x), shapes=((None, CLASSES),)).in_float64()
        self.layers = [m.requires_grad_(False) for m in self.network.graph.modules() if isinstance(m, nn.Linear)]
        for layer in self.layers:
            layer.weight.mul_(1.5)
        self.x = torch.rand(1, INPUTS, dtype=torch.float64)
        self.label = self.network(self.x).argmax(1)
        self.least = float(self.margins(self.corners()).min())

    def margins(self, points: Tensor) -> Tensor:
        logits, own = self.network(points), self.label.expand(len(points), 1)
        return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(1)

    def corners(self) -> Tensor:
        """Every point in the ball where two lines meet on which something bends: sides, and neurons under each pattern before.

        A margin is linear between these lines, so it is least at one of these points.
        """
        box = BALL.region(self.x).box
        sides = torch.cat([torch.eye(2), torch.eye(2)]).double()
        ends = -torch.cat([box.lower[0], box.upper[0]])
        first, second = (torch.cat([m.weight, m.bias[:, None]], 1) for m in self.layers[:2])
        found = [torch.cat([sides, ends[:, None]], 1), first]
        for pattern in itertools.product([0.0, 1.0], repeat=WIDTH):
            active = first * torch.tensor(pattern, dtype=torch.float64)[:, None]
            through = second[:, :-1] @ active
            through[:, -1] += second[:, -1]
            found.append(through)
        fixed = torch.cat(found[:2])
        points = []
        for lines in found[2:]:
            every = torch.cat([fixed, lines])
            i, j = torch.triu_indices(len(every), len(every), 1)
            a, b = every[i], every[j]
            det = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
            x = (a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1]) / det
            y = (a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2]) / det
            points.append(torch.stack([x, y], 1)[det != 0])
        met = torch.cat(points)
        near = torch.minimum(torch.maximum(met, box.lower), box.upper)
        return near[(met - near).abs().amax(1) < 1e-9]

    def asked(self, least: float, mode: Mode) -> Decision:
        """Moved so that the least margin is as given."""
        bias = self.layers[-1].bias
        bias[self.label] += least - self.least
        self.least = least
        bounds = MarginBounds(self.network, rounding_of(mode), method="alpha-crown")
        with pytest.MonkeyPatch.context() as patched:  # nor does it learn from values that no proof is possible
            patched.setattr(SearchBounds, "value", lambda self, of, points: torch.full(of.shape, torch.inf))
            return margins_decided(bounds, BALL.region(self.x), self.label, nobody)


@pytest.mark.parametrize("block", [0, *(pytest.param(b, marks=pytest.mark.slow) for b in range(1, 500))])
def test_no_margin_below_zero_is_proved_and_every_one_above(block: int) -> None:
    """Twenty questions a block, in real arithmetic and in float32, which may lose some 1e-5 of these networks."""
    for seed in range(5 * block, 5 * block + 5):
        tie, rng = Tie(seed), np.random.default_rng(seed)
        for mode, smallest in (("real", -6.0), ("float32-any-order", -4.0)):
            assert tie.asked(-(10 ** rng.uniform(-12, -3)), mode).end != "proved", seed
            assert tie.asked(10 ** rng.uniform(smallest, smallest + 2), mode).end == "proved", seed
