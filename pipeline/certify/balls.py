"""Threats around a sample: all points within eps in a norm, and within the valid range, as regions that bounds can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.arithmetic import Rounding
from pipeline.bounds import Interval, LinearForm
from pipeline.threat import Box, EuclideanBall, LinfBall, Region


@dataclass(frozen=True)
class L2Ball:
    """All inputs whose Euclidean distance from a sample is at most ``eps (high - low)``, within the valid range."""

    eps: Fraction
    low: float = 0.0
    high: float = 1.0

    @property
    def radius(self) -> Fraction:
        """The radius in the units of the data: ``eps (high - low)``, exact."""
        return self.eps * (Fraction(self.high) - Fraction(self.low))


Ball = LinfBall | L2Ball
BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"linf": LinfBall, "l2": L2Ball}


def norm_of(ball: Ball) -> str:
    """The name of a ball's norm."""
    return next(name for name, kind in BALLS.items() if isinstance(ball, kind))


def region(ball: Ball, x: Float[Tensor, "batch *features"]) -> Region:
    """The region of each sample, containing every real point of its ball.

    ``|d|_inf <= |d|_2``, so that the clipped box of the same radius contains a Euclidean ball.
    """
    if isinstance(ball, LinfBall):
        return Box(ball.box(x))
    around = LinfBall(ball.eps, ball.low, ball.high).box(x)
    return EuclideanBall(x, float(ball.radius) * (1 + 8 * torch.finfo(x.dtype).eps), around)


def joined(parts: Sequence[Region]) -> Region:
    """One batch of samples whose regions differ in size: ``parts`` holds one region a sample."""
    boxes = [part.box for part in parts]
    box = Interval(torch.cat([b.center for b in boxes]), torch.cat([b.radius for b in boxes]))
    return Box(box) if all(isinstance(part, Box) for part in parts) else Mixed(tuple(parts), box)


@dataclass(frozen=True, eq=False)
class Mixed:
    """Regions of any kind, one a sample, with the box around each."""

    parts: tuple[Region, ...]
    box: Interval

    def minimise(self, form: LinearForm, rounding: Rounding) -> Float[Tensor, "rows batch"]:
        """The minimum over each sample's own region."""
        rows = [
            part.minimise(replace(form, coeff=form.coeff[:, i : i + 1], const=form.const[:, i : i + 1]), rounding)
            for i, part in enumerate(self.parts)
        ]
        return torch.cat(rows, dim=1)

    def __getitem__(self, samples: slice | Tensor) -> Mixed:
        picked = torch.arange(len(self.parts))[samples].tolist()
        return Mixed(tuple(self.parts[i] for i in picked), self.box[samples])
