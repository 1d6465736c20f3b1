"""Lower bounds of the margins of samples, by any method, in batches that fit into the memory allowed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from pipeline.bounds.margins import MarginBounds
from pipeline.certify.attack import Predict, nearest_inside
from pipeline.certify.complete import margins_decided
from pipeline.certify.decision import Decision, Room
from pipeline.certify.engine import Engine
from pipeline.certify.looseness import looseness, value_count
from pipeline.certify.verdicts import Images, Strategy
from pipeline.choices import Mode
from pipeline.core.network import Network
from pipeline.core.threat import Ball, LinfBall, Region, concatenate
from pipeline.methods import DOMAINS, IBP, METHODS
from pipeline.results import Layer
from pipeline.rules import Affine, Rule, rule_for
from pipeline.system.clock import Clock, OutOfTime

IBP_BATCH, LINEAR_BATCH = 1024, 32
"""The most samples that a rung bounds at once: more are hardly faster, and a budget that ends a batch loses all of it."""
COPIES_PER_VALUE = 8
"""How many tensors of the size of each value exist while statistics of layers are taken."""
FEW_DOMAINS = 64
"""The most domains for a sample that has a counterexample, where a proof would be an alarm."""


class Prover:
    """Bounds of the margins of one data set by one network, in float64."""

    def __init__(
        self, network: Network, images: Images, labels: np.ndarray, settings: Strategy, clock: Clock | None = None
    ):
        self.clock = clock or Clock()
        self.network = network.in_float64().to(settings.device)
        self.images, self.labels, self.settings = images, labels, settings
        self.engine = Engine(
            MarginBounds,
            self.network,
            settings.arithmetic,
            self._one,
            memory=settings.memory,
            kernels=settings.kernels,
            check=lambda: self.clock.check(),
        )

    def margins(
        self, method: str, ball: Ball | Sequence[Ball], rows: np.ndarray, *, mode: Mode | None = None
    ) -> np.ndarray:
        """Lower bounds of the least margin over each sample's ball, float64: (rows,). ``ball`` may be one for each sample.

        Never bounds more samples at once than the file takes: where it fixes its batch, samples might depend on each other.
        Raises OutOfTime where the clock runs out.
        """
        size = self.settings.batch or max(len(rows), 1)
        if len(rows) > size:
            cuts = [slice(start, start + size) for start in range(0, len(rows), size)]
            parts = ((ball[cut] if isinstance(ball, Sequence) else ball, rows[cut]) for cut in cuts)
            return np.concatenate([self.margins(method, balls, part, mode=mode) for balls, part in parts])
        x, labels = self.tensors(rows)
        return self.engine.bounds(method, mode).least(_region(ball, x), labels).cpu().numpy()

    def batch(self, method: str, classes: int) -> int:
        """How many samples to bound at once, so that their boxes and a group of rows of their margins fit into memory."""
        most = self.settings.batch or (IBP_BATCH if METHODS[method].over == "tail" else LINEAR_BATCH)
        try:
            return self.engine.samples(method, classes - 1, most)
        except OutOfTime:
            return 1  # no unit will be started

    def branch_and_bound(self, method: str, ball: Ball, row: np.ndarray, predict: Predict | None) -> Decision:
        """Decide one sample by branch and bound; a counterexample is a float32 point of the ball, confirmed on the file.

        Without ``predict`` it only searches for a proof, in at most ``FEW_DOMAINS`` domains.
        """
        x, label = self.tensors(row)
        bounds, start = self.engine.bounds(method), torch.from_numpy(self.images[row])
        most = self.settings.most_domains or DOMAINS

        def judge(points: Tensor) -> tuple[Tensor, np.ndarray]:
            if predict is None:
                return points, np.zeros(len(points), bool)
            points = nearest_inside(start, ball, points.to(start))
            fooled = predict(points.numpy()).argmax(1) != self.labels[row]
            for i in np.flatnonzero(fooled):  # a counterexample must be one in a batch of one, too
                fooled[i] = predict(points[i : i + 1].numpy()).argmax(1)[0] != self.labels[row[0]]
            return points, fooled

        return margins_decided(
            bounds,
            ball.region(x),
            label,
            judge,
            domains=most if predict is not None else min(FEW_DOMAINS, most),
            room=Room.within(bounds.linear.memory, self.engine.need(method)),
            together=self.settings.batch is None,
            check=self.clock.check,
        )

    def require(self, methods: Sequence[str]) -> None:
        """Raise UsageError (2) where ``--memory-budget`` does not hold one row of margins of one sample."""
        for method in methods:
            with suppress(OutOfTime):  # no unit will be started
                self.engine.require(method)

    def _one(self) -> list[Region]:
        return [LinfBall(Fraction(0)).region(self.tensors(np.arange(1))[0])]

    def has_relaxations(self) -> bool:
        """Whether any operator has a linear relaxation better than its box; without one, every method gives the bounds of IBP."""
        return any(
            not isinstance(rule, Affine) and type(rule).relax is not Rule.relax
            for step in self.engine.bounds(IBP).top.plan.steps
            if (rule := rule_for(step.op)) is not None
        )

    def layers(self, ball: Ball, images: np.ndarray) -> tuple[Layer, ...]:
        """How loose the boxes of IBP are, over as many of the first images as fit into memory with every value kept.

        Empty where the time is over.
        """
        with suppress(OutOfTime):
            bytes_per_image = 8 * COPIES_PER_VALUE * value_count(self.network, torch.from_numpy(images[:1]))
            count = self.settings.batch or max(1, self.engine.batch_bytes // bytes_per_image)
            box = ball.region(torch.from_numpy(images[:count]).to(self.settings.device, torch.float64)).box
            return looseness(self.engine.bounds(IBP).linear.intervals, box)
        return ()

    def tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The images (float64) and labels of some samples, on the device."""
        images, labels = torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])
        return images.to(self.settings.device, torch.float64), labels.to(self.settings.device)


def _region(ball: Ball | Sequence[Ball], x: Tensor) -> Region:
    if isinstance(ball, Ball):
        return ball.region(x)
    return concatenate([one.region(x[i : i + 1]) for i, one in enumerate(ball)])
