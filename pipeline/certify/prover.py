"""Margins of samples by any method, in batches that fit the memory allowed; and how loose the boxes behind them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from pipeline.bounds import walk
from pipeline.bounds.float32_sites import self_test
from pipeline.bounds.footprint import FILL, Need
from pipeline.bounds.linear import MEMORY
from pipeline.bounds.margins import MarginBounds
from pipeline.certify.attack import Predict, moved_inside
from pipeline.certify.batches import require_memory
from pipeline.certify.complete import Decision, margins_decided
from pipeline.certify.verdicts import Images, Strategy
from pipeline.choices import Mode
from pipeline.core.interval import Interval
from pipeline.core.network import Network, Plan, Step
from pipeline.core.rounding import rounding_of
from pipeline.core.threat import Ball, LinfBall, Region, joined
from pipeline.methods import IBP, METHODS
from pipeline.results import Layer
from pipeline.rules import Affine, Rule, rule_for
from pipeline.rules.weights import Facts
from pipeline.system.allocator import give_back_large_blocks
from pipeline.system.clock import Clock, OutOfTime

CHUNK_BYTES = 1 << 29
"""What a batch takes at most on a CPU, however much memory is allowed: nothing is faster beyond its caches."""
IBP_BATCH, LINEAR_BATCH = 1024, 32
"""Samples that a rung bounds at once at most: little is gained beyond, and what a budget cuts short is lost."""
LOOKED_AT = 8
"""Tensors for each value while layers are looked into: its box, and what vertices reach."""
FEW_DOMAINS = 64
"""Into how many parts the region of a sample is divided of which a proof would be an alarm."""
VERTICES = 4
"""Points of each box from which the looseness of bounds is judged."""


class Prover:
    """Bounds over one data set with one network, in float64."""

    def __init__(
        self, network: Network, images: Images, labels: np.ndarray, settings: Strategy, clock: Clock | None = None
    ):
        self_test(settings.device)
        if settings.memory is not None:
            give_back_large_blocks()
        self.clock = clock or Clock()
        self.network = network.in_float64().to(settings.device)
        self.images, self.labels, self.settings = images, labels, settings
        self._bounds: dict[tuple[str, Mode], MarginBounds] = {}
        self._facts: Facts = {}
        self._total = total_of(self.network, torch.from_numpy(images[:1]))

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
        x, labels = self._tensors(rows)
        if isinstance(ball, Sequence):
            return self._bounds_of(method, joined([b.region(x[i : i + 1]) for i, b in enumerate(ball)]), labels, mode)
        return self._bounds_of(method, ball.region(x), labels, mode)

    def batch(self, method: str, classes: int) -> int:
        """Samples at once, so that boxes and a group of rows of margins, of any number of classes, stay within memory."""
        try:
            need, memory = self._need(method), self._by(method, self.settings.arithmetic).linear.memory
        except OutOfTime:
            return 1  # and nothing will be begun
        most = self.settings.batch or (IBP_BATCH if METHODS[method].over == "tail" else LINEAR_BATCH)
        return need.samples(memory, classes - 1, most)

    def decided(self, method: str, ball: Ball, row: np.ndarray, predict: Predict | None) -> Decision:
        """One sample by branch and bound; the point of a counterexample is one of float32 in the ball, tried on the file.

        Without ``predict`` a few parts alone are looked at, and nothing but a proof is looked for.
        """
        x, label = self._tensors(row)
        bounds, start = self._by(method, self.settings.arithmetic), torch.from_numpy(self.images[row])

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
            domains=self.settings.domains if predict is not None else min(FEW_DOMAINS, self.settings.domains),
            rows=max(4, self._need(method).rows(bounds.linear.memory, 1) // 2),
            together=self.settings.batch is None,
            check=self.clock.check,
        )

    def require(self, methods: Sequence[str]) -> None:
        """Raise UsageError (2) where the memory that was asked for does not hold one row of margins of one sample."""
        for method in methods if self.settings.memory is not None else ():
            with suppress(OutOfTime):  # nothing will be begun
                require_memory(self.settings.memory or 0, self._fixed(), self._need(method).least, method)

    def _need(self, method: str) -> Need:
        """What bounds of one sample take by a method, measured once."""
        bounds = self._by(method, self.settings.arithmetic)
        x, _ = self._tensors(np.arange(1))
        need = bounds.need(LinfBall(Fraction(0)).region(x))
        if self.settings.memory is None:
            # What nobody asked for refuses no model: it grows to what one sample takes.
            bounds.linear.memory = max(bounds.linear.memory, need.least)
        return need

    def _fixed(self) -> int:
        """Bytes of the network in float64, of what is remembered of its weights, and of its copy in the attack."""
        kept = [*self.network.parameters(), *self.network.buffers()]
        return 5 * sum(tensor.nbytes for tensor in kept) // 2

    def _room(self) -> int:
        """Bytes for one batch beside what is there for all of them."""
        left = max(0, int(FILL * ((self.settings.memory or MEMORY) - self._fixed())))
        return min(CHUNK_BYTES, left) if torch.device(self.settings.device).type == "cpu" else left

    def has_relaxations(self) -> bool:
        """Whether any operator on the way is better than its own box: else every method gives what IBP gives."""
        return any(
            not isinstance(rule, Affine) and type(rule).relax is not Rule.relax
            for step in self._by(IBP, self.settings.arithmetic).top.plan.steps
            if (rule := rule_for(step.op)) is not None
        )

    def layers(self, ball: Ball, images: np.ndarray) -> tuple[Layer, ...]:
        """The signs and radii that IBP leaves at the input of each elementwise nonlinearity.

        Over the first of some images: as many as memory has room for with every value kept. None where the time is over.
        """
        with suppress(OutOfTime):
            return self._layers(ball, images)
        return ()

    def _layers(self, ball: Ball, images: np.ndarray) -> tuple[Layer, ...]:
        bounds = self._by(IBP, self.settings.arithmetic)
        room = self._room() // (8 * LOOKED_AT * self._total)
        some = torch.from_numpy(images[: self.settings.batch or max(1, room)])
        box = ball.region(some.to(self.settings.device, torch.float64)).box
        with torch.no_grad():
            boxes = bounds.linear.intervals.boxes([box], keep=walk.EVERYTHING)
            reached = _reached(bounds.top.plan, box)
        found = (self._layer(step, boxes, reached) for step in bounds.top.plan.steps)
        return tuple(layer for layer in found if layer is not None)

    def _layer(
        self, step: Step, boxes: Sequence[Interval | Tensor | None], reached: Mapping[int, float]
    ) -> Layer | None:
        inside, outside = boxes[step.args[0]], boxes[step.index]
        if isinstance(rule_for(step.op), Affine) or not (
            isinstance(inside, Interval) and isinstance(outside, Interval)
        ):
            return None
        if len(step.args) != 1 or inside.center.shape != outside.center.shape:
            return None
        active = float((inside.center >= inside.radius).double().mean())
        inactive = float((inside.center <= -inside.radius).double().mean())
        radius = float(inside.radius.mean())
        moved = reached.get(step.args[0], 0.0)
        return Layer(
            name=self.network.origin(step.name),
            kind=type(step.op).__name__,
            unstable=max(0.0, 1 - active - inactive),
            active=active,
            inactive=inactive,
            mean_radius=radius if np.isfinite(radius) else None,
            looseness=radius / moved if moved > 0 and np.isfinite(radius / moved) else None,
        )

    def _bounds_of(self, method: str, where: Region, labels: Tensor, mode: Mode | None) -> np.ndarray:
        return self._by(method, mode or self.settings.arithmetic).least(where, labels).cpu().numpy()

    def _by(self, method: str, mode: Mode) -> MarginBounds:
        if (method, mode) not in self._bounds:
            rounding, memory = rounding_of(mode, self.settings.kernels), self._room()
            self._bounds[method, mode] = MarginBounds(
                self.network, rounding, method=method, memory=memory, facts=self._facts, check=self.clock.check
            )
        return self._bounds[method, mode]

    def _tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        images, labels = torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])
        return images.to(self.settings.device, torch.float64), labels.to(self.settings.device)


def _reached(plan: Plan, box: Interval) -> dict[int, float]:
    """By node, half the range that the values at a few vertices of a box span, in the mean over samples and units."""
    signs = torch.Generator().manual_seed(0)
    lowest: dict[int, Tensor] = {}
    highest: dict[int, Tensor] = {}
    for _ in range(VERTICES // 2):
        sign = torch.randint(0, 2, box.center.shape, generator=signs).to(box.center) * 2 - 1
        for vertex in (box.center + sign * box.radius, box.center - sign * box.radius):
            values = walk.forward(plan, [vertex], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
            for index in {step.args[0] for step in plan.steps if len(step.args) == 1}:
                value = values[index]
                if isinstance(value, Tensor):
                    lowest[index] = value if index not in lowest else torch.minimum(lowest[index], value)
                    highest[index] = value if index not in highest else torch.maximum(highest[index], value)
    return {index: float((highest[index] - low).double().mean()) / 2 for index, low in lowest.items()}


def total_of(network: Network, sample: Tensor) -> int:
    """How many numbers all values of one sample hold together."""
    probe = sample.to(next(network.parameters(), torch.zeros(1, dtype=torch.float64)))
    with torch.no_grad():
        values = walk.forward(network.plan(), [probe], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
    return sum(v.numel() for v in values if isinstance(v, Tensor) and v.dim() and v.shape[0] == 1)
