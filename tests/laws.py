"""The laws that every operator and every graph is held to, with no attack in sight: bounds are checked at points.

Points are drawn inside the box, at its corners and on its edges, and pushed by the sign of the gradient of each output
towards its ends. Parameters have both signs; boxes may be degenerate in some entries; seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.core.interval import Interval
from pipeline.rules import Example

KINDS = ("wide", "narrow", "point", "touching zero", "negative")


class Measured(dict[str, tuple[float, float]]):
    """A table in which every float32 kernel was measured, as if each erred by a few units in the last place."""

    def __contains__(self, operator: object) -> bool:
        return True

    def __missing__(self, operator: str) -> tuple[float, float]:
        return 2e-7, 1e-6


def randomise(op: nn.Module, seed: int) -> nn.Module:
    """Parameters and statistics of both signs, in float64."""
    generator = torch.Generator().manual_seed(seed)
    op = op.double().eval()
    with torch.no_grad():
        for name, tensor in [*op.named_parameters(), *op.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(noise.abs() + 0.1 if name.endswith("running_var") else noise)
    return op


def box(shape: tuple[int, ...], kind: str, generator: torch.Generator) -> Interval:
    center = torch.randn(shape, generator=generator, dtype=torch.float64)
    radius = torch.rand(shape, generator=generator, dtype=torch.float64)
    if kind == "narrow":
        radius = radius * 1e-8
    elif kind == "point":
        radius = torch.zeros_like(radius)
    elif kind == "touching zero":
        radius = torch.where(torch.rand(shape, generator=generator) < 0.5, center.abs(), radius)
    elif kind == "negative":
        center = -center.abs() - radius
    degenerate = torch.rand(shape, generator=generator) < 0.1
    return Interval(center, torch.where(degenerate, torch.zeros_like(radius), radius))


def boxes(example: Example, kind: str, seed: int) -> list[Interval | Tensor]:
    """The inputs of an example: a box for each shape, constants in float64."""
    generator = torch.Generator().manual_seed(seed)
    return [
        x.double() if isinstance(x, Tensor) else within(example.domain, box(x, kind, generator)) for x in example.inputs
    ]


def within(domain: tuple[float, float] | None, x: Interval) -> Interval:
    """The box moved into a domain, narrow ones staying narrow: both ends through one rising function."""
    if domain is None:
        return x
    low, high = domain
    ends = [low + (high - low) * torch.sigmoid(end) for end in (x.center - x.radius, x.center + x.radius)]
    return Interval((ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2)


def inside(x: Interval, weight: Tensor) -> Tensor:
    """The point of the box at position ``weight`` in [-1, 1] along each radius, never outside in real arithmetic."""
    weight = weight.to(x.center.device)
    point = x.center + weight * x.radius
    # One ulp back towards the center: the sum above may have rounded outward.
    return torch.where(weight == 0, x.center, torch.nextafter(point, x.center))


def points(op: nn.Module, inputs: list[Interval | Tensor], seed: int, draws: int = 12) -> Iterator[list[Tensor]]:
    """Interior points, corners, edges, and corners chosen by the gradient of a random combination of outputs."""
    generator = torch.Generator().manual_seed(seed)
    for draw in range(draws):
        weights = []
        for x in inputs:
            shape = x.center.shape if isinstance(x, Interval) else x.shape
            weight = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
            if draw % 3 == 1:
                weight = weight.sign()
            elif draw % 3 == 2:
                weight = torch.where(torch.rand(shape, generator=generator) < 0.5, weight.sign(), weight)
            weights.append(weight)
        if draw >= draws // 2:
            leaves = [(x.center.clone().requires_grad_() if isinstance(x, Interval) else x) for x in inputs]
            out = op(*leaves)
            direction = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.device)
            varying = [leaf for leaf in leaves if leaf.requires_grad]
            known = out.requires_grad  # not of a step of whole numbers
            grads = iter(torch.autograd.grad((out * direction).sum(), varying, allow_unused=True) if known else ())
            pushed = []
            for x, w in zip(inputs, weights, strict=True):
                g = next(grads, None) if isinstance(x, Interval) else None
                pushed.append(w if g is None else g.sign())
            weights = pushed
        yield [inside(x, w) if isinstance(x, Interval) else x for x, w in zip(inputs, weights, strict=True)]


def violation(box: Interval, y: Tensor) -> float:
    """By how much ``y`` leaves the box, at most; zero or negative where it lies inside, NaN where either is NaN."""
    return float(torch.maximum(box.lower - y, y - box.upper).detach().max())
