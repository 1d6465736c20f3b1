"""Margins of samples by any method, in batches that fit the memory allowed; and how loose the boxes behind them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.arithmetic import Mode, rounding_of
from pipeline.bounds import Interval
from pipeline.certify.clock import Clock
from pipeline.certify.verdicts import Images, Layer, Settings
from pipeline.network import Network, Plan, Step
from pipeline.propagate import walk
from pipeline.propagate.crown import COPIES
from pipeline.propagate.margins import MarginBounds, Method
from pipeline.propagate.rounding import self_test
from pipeline.rules import Affine, Rule, rule_for
from pipeline.threat import Ball, Region, joined

CHUNK_BYTES = 1 << 29
"""What a batch may take at most on a CPU, however much memory is allowed: nothing is faster beyond its caches."""
LINEAR_BATCH = 32
"""Samples that a linear rung bounds at once at most: little is gained beyond, and what a budget cuts short is lost."""
KEPT = 12
"""Tensors that a linear walk keeps for each value: its box, its relaxation's lines and slack, and what made them."""
LOOKED_AT = 8
"""Tensors for each value while layers are looked into: its box, and what vertices reach."""
VERTICES = 4
"""Points of each box from which the looseness of bounds is judged."""


class Prover:
    """Bounds over one data set with one network, in float64."""

    def __init__(
        self, network: Network, images: Images, labels: np.ndarray, settings: Settings, clock: Clock | None = None
    ):
        self_test(settings.device)
        self.clock = clock or Clock()
        self.network = network.in_float64().to(settings.device)
        self.images, self.labels, self.settings = images, labels, settings
        self._bounds: dict[tuple[Method, Mode], MarginBounds] = {}
        self._largest, self._total = sizes(self.network, torch.from_numpy(images[:1]))

    def margins(
        self, method: Method, ball: Ball | Sequence[Ball], rows: np.ndarray, *, mode: Mode | None = None
    ) -> np.ndarray:
        """The least margin over each sample's ball; ``ball`` may be one for each sample.

        Raises OutOfTime where the clock runs out on the way.
        """
        x, labels = self._tensors(rows)
        if isinstance(ball, Sequence):
            return self._bounds_of(method, joined([b.region(x[i : i + 1]) for i, b in enumerate(ball)]), labels, mode)
        return self._bounds_of(method, ball.region(x), labels, mode)

    def batch(self, method: Method, classes: int) -> int:
        """Samples at once, so that boxes and the rows of all margins stay within the memory allowed."""
        if self.settings.batch is not None:
            return self.settings.batch
        on_cpu = torch.device(self.settings.device).type == "cpu"
        memory = min(CHUNK_BYTES, self.settings.memory) if on_cpu else self.settings.memory
        return at_once(method, classes, self._largest, self._total, memory)

    def has_relaxations(self) -> bool:
        """Whether any operator on the way is better than its own box: else every method gives what IBP gives."""
        return any(
            not isinstance(rule, Affine) and type(rule).relax is not Rule.relax
            for step in self._by("ibp", self.settings.arithmetic).top.plan.steps
            if (rule := rule_for(step.op)) is not None
        )

    def layers(self, ball: Ball, rows: np.ndarray) -> tuple[Layer, ...]:
        """The signs and radii that IBP leaves at the input of each elementwise nonlinearity.

        Over the first of the samples: as many as memory has room for with every value kept.
        """
        bounds = self._by("ibp", self.settings.arithmetic)
        room = min(CHUNK_BYTES, self.settings.memory) // (8 * LOOKED_AT * self._total)
        x, _ = self._tensors(rows[: self.settings.batch or max(1, room)])
        box = ball.region(x).box
        with torch.no_grad():
            boxes = bounds.walk.walk.boxes([box], keep=walk.EVERYTHING)
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
        name = self.network.origin(step.name)
        kept = radius if np.isfinite(radius) else None
        moved = reached.get(step.args[0], 0.0)
        looseness = radius / moved if moved > 0 and np.isfinite(radius / moved) else None
        return Layer(name, type(step.op).__name__, max(0.0, 1 - active - inactive), active, inactive, kept, looseness)

    def _bounds_of(self, method: Method, where: Region, labels: Tensor, mode: Mode | None) -> np.ndarray:
        return self._by(method, mode or self.settings.arithmetic).bounds(where, labels).cpu().numpy()

    def _by(self, method: Method, mode: Mode) -> MarginBounds:
        if (method, mode) not in self._bounds:
            rounding, memory = rounding_of(mode, self.settings.kernels), self.settings.memory
            self._bounds[method, mode] = MarginBounds(
                self.network, rounding, method=method, memory=memory, fixed=True, check=self.clock.check
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


def sizes(network: Network, sample: Tensor) -> tuple[int, int]:
    """How many numbers the largest value of one sample holds, and all of them together."""
    probe = sample.to(next(network.parameters(), torch.zeros(1, dtype=torch.float64)))
    values = walk.forward(network.plan(), [probe], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
    found = [v.numel() for v in values if isinstance(v, Tensor) and v.dim() and v.shape[0] == 1]
    return max(found), sum(found)


def at_once(method: Method, classes: int, largest: int, total: int, memory: int, *, width: int = 8) -> int:
    """Samples whose bounds take about ``memory`` bytes, in numbers of ``width`` bytes.

    IBP: eight values of the largest layer. Linear rungs: ``KEPT`` tensors for every value of the network and ``COPIES`` for
    each row of coefficients, at every step of the walk where slopes are searched for.
    """
    if method == "ibp":
        return max(1, min(1024, memory // (width * 8 * largest)))
    rows = (classes - 1) * (total if method == "alpha-crown" else largest)
    return max(1, min(LINEAR_BATCH, memory // (width * (KEPT * total + COPIES * rows))))
