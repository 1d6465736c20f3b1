"""The float32 points of the real ball of a sample, within which an attack moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.core.threat import Ball, L2Ball


@dataclass(frozen=True, eq=False)
class Space:
    """A set of float32 points for each sample: ``[low, high]``, and, given a ``center``, within ``radius`` of it."""

    low: Float[Tensor, " batch *features"]
    high: Float[Tensor, " batch *features"]
    unit: Float[Tensor, " batch *features"] | float
    """The length of a step of size one."""
    center: Float[Tensor, " batch *features"] | None = None
    radius: float = 0.0

    @classmethod
    def around(cls, x: Tensor, ball: Ball) -> Space:
        """The float32 points inside the ball of each sample."""
        radius = ball.extent(x).radius
        if not isinstance(radius, Tensor):
            return cls(*_ends(x, ball), radius, x if isinstance(ball, L2Ball) else None, radius)
        return cls(*_ends(x, ball), radius.to(x).expand_as(x))

    def __getitem__(self, samples: Tensor) -> Space:
        unit = self.unit[samples] if isinstance(self.unit, Tensor) else self.unit
        center = None if self.center is None else self.center[samples]
        return Space(self.low[samples], self.high[samples], unit, center, self.radius)

    def start(self, draws: Tensor) -> Tensor:
        """A point for each draw from [0, 1]: linear between the ends of a box, on the sphere of a Euclidean ball."""
        if self.center is not None:
            return self.center + self.radius * _unit(draws - 0.5)
        return torch.where(draws == 1, self.high, self.low + draws * (self.high - self.low))

    def step(self, point: Tensor, gradient: Tensor, size: float) -> Tensor:
        """The points one step of this size further, against the gradient."""
        return point - size * self.unit * (gradient.sign() if self.center is None else _unit(gradient))

    def project(self, point: Tensor) -> Tensor:
        """The nearest points of the space, up to rounding, which ``inside`` checks."""
        point = torch.minimum(torch.maximum(point, self.low), self.high)
        if self.center is None:
            return point
        # The radius is shortened a little, so that the rounded float32 point lies inside, too.
        shrink = (self.radius * (1 - 1e-6) / _length(point, self.center).clamp_min(1e-300)).clamp(max=1)
        point = (self.center + (point.double() - self.center) * shrink).to(point.dtype)
        return torch.minimum(torch.maximum(point, self.low), self.high)

    def inside(self, point: Tensor) -> Bool[Tensor, " batch"]:
        """Whether each point lies in the real Euclidean ball, the rounding of float64 included; points lie in the box anyway."""
        if self.center is None:
            return torch.ones(len(point), dtype=torch.bool, device=point.device)
        return _length(point, self.center).flatten() * (1 + 1e-9) <= self.radius


def _length(point: Tensor, x: Tensor) -> Tensor:
    """``|point - x|_2`` in float64, shaped to broadcast over samples."""
    return (point.double() - x.double()).flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))


def _unit(direction: Tensor) -> Tensor:
    return direction / direction.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *[1] * (direction.dim() - 1))


def _ends(x: Tensor, ball: Ball) -> tuple[Tensor, Tensor]:
    """The least and greatest float32 inside the real interval of each entry, so that no point leaves it by rounding.

    An entry of radius 0 has itself as both ends.
    """
    exact = x.double()
    radius, least, greatest = (torch.as_tensor(v, dtype=torch.float64, device=x.device) for v in ball.extent(x))
    low, high = torch.maximum(exact - radius, least), torch.minimum(exact + radius, greatest)
    low32, high32 = low.float(), high.float()
    # One step inwards where the nearest float32 may lie outside, or where float64 itself may have rounded.
    low32 = torch.where(low32.double() <= low, torch.nextafter(low32, x), low32)
    high32 = torch.where(high32.double() >= high, torch.nextafter(high32, x), high32)
    return torch.minimum(low32, x), torch.maximum(high32, x)
