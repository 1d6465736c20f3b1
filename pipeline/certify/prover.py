"""Margins of samples by any method, in batches that fit the memory allowed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from pipeline.bounds.margins import MarginBounds
from pipeline.certify.attack import Predict, moved_inside
from pipeline.certify.complete import Decision, Room, margins_decided
from pipeline.certify.engine import Engine
from pipeline.certify.looseness import looseness, numbers
from pipeline.certify.verdicts import Images, Strategy
from pipeline.choices import Mode
from pipeline.core.network import Network
from pipeline.core.threat import Ball, LinfBall, Region, concatenate
from pipeline.methods import DOMAINS, IBP, METHODS
from pipeline.results import Layer
from pipeline.rules import Affine, Rule, rule_for
from pipeline.system.clock import Clock, OutOfTime

IBP_BATCH, LINEAR_BATCH = 1024, 32
"""Samples that a rung bounds at once at most: little is gained beyond, and what a budget cuts short is lost."""
LOOKED_AT = 8
"""Tensors for each value while layers are looked into: its box, and what vertices reach."""
FEW_DOMAINS = 64
"""Into how many parts the region of a sample is divided of which a proof would be an alarm."""


class Prover:
    """Bounds over one data set with one network, in float64."""

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
        """The least margin over each sample's ball; ``ball`` may be one for each sample.

        Never of more samples at once than the file takes: where it fixes its batch, they may read each other.
        Raises OutOfTime where the clock runs out on the way.
        """
        size = self.settings.batch or max(len(rows), 1)
        if len(rows) > size:
            cuts = [slice(start, start + size) for start in range(0, len(rows), size)]
            parts = ((ball[cut] if isinstance(ball, Sequence) else ball, rows[cut]) for cut in cuts)
            return np.concatenate([self.margins(method, balls, part, mode=mode) for balls, part in parts])
        x, labels = self.tensors(rows)
        return self.engine.bounds(method, mode).least(_region(ball, x), labels).cpu().numpy()

    def batch(self, method: str, classes: int) -> int:
        """Samples at once, so that boxes and a group of rows of margins, of any number of classes, stay within memory."""
        most = self.settings.batch or (IBP_BATCH if METHODS[method].over == "tail" else LINEAR_BATCH)
        try:
            return self.engine.samples(method, classes - 1, most)
        except OutOfTime:
            return 1  # and nothing will be begun

    def decided(self, method: str, ball: Ball, row: np.ndarray, predict: Predict | None) -> Decision:
        """One sample by branch and bound; the point of a counterexample is one of float32 in the ball, tried on the file.

        Without ``predict`` a few parts alone are looked at, and nothing but a proof is looked for.
        """
        x, label = self.tensors(row)
        bounds, start = self.engine.bounds(method), torch.from_numpy(self.images[row])
        most = self.settings.most_domains or DOMAINS

        def judge(points: Tensor) -> tuple[Tensor, np.ndarray]:
            if predict is None:
                return points, np.zeros(len(points), bool)
            tried = moved_inside(start, ball, points.to(start))
            fooled = predict(tried.numpy()).argmax(1) != self.labels[row]
            for i in np.flatnonzero(fooled):  # a counterexample is one by itself, too
                fooled[i] = predict(tried[i : i + 1].numpy()).argmax(1)[0] != self.labels[row[0]]
            return tried, fooled

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
        """Raise UsageError (2) where the memory that was asked for does not hold one row of margins of one sample."""
        for method in methods:
            with suppress(OutOfTime):  # nothing will be begun
                self.engine.require(method)

    def _one(self) -> list[Region]:
        return [LinfBall(Fraction(0)).region(self.tensors(np.arange(1))[0])]

    def has_relaxations(self) -> bool:
        """Whether any operator on the way is better than its own box: else every method gives what IBP gives."""
        return any(
            not isinstance(rule, Affine) and type(rule).relax is not Rule.relax
            for step in self.engine.bounds(IBP).top.plan.steps
            if (rule := rule_for(step.op)) is not None
        )

    def layers(self, ball: Ball, images: np.ndarray) -> tuple[Layer, ...]:
        """How loose the boxes of IBP are over the first of some images: as many as memory has room for with every value kept.

        None where the time is over.
        """
        with suppress(OutOfTime):
            room = self.engine.room // (8 * LOOKED_AT * numbers(self.network, torch.from_numpy(images[:1])))
            some = torch.from_numpy(images[: self.settings.batch or max(1, room)])
            box = ball.region(some.to(self.settings.device, torch.float64)).box
            return looseness(self.engine.bounds(IBP).linear.intervals, box)
        return ()

    def tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels of some samples, in float64, on the device."""
        images, labels = torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])
        return images.to(self.settings.device, torch.float64), labels.to(self.settings.device)


def _region(ball: Ball | Sequence[Ball], x: Tensor) -> Region:
    if isinstance(ball, Ball):
        return ball.region(x)
    return concatenate([one.region(x[i : i + 1]) for i, one in enumerate(ball)])
