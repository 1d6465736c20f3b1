"""The threat model: the region around a sample that perturbations may reach."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.rounding import Rounding


def clipped_box(
    x: Float[Tensor, " batch *features"], eps: Tensor | float, low: Tensor | float = 0.0, high: Tensor | float = 1.0
) -> Interval:
    """The box ``[x - eps, x + eps]`` clipped to the valid range ``[low, high]``, as center and radius.

    ``a = min(eps, x - low)``, ``b = min(eps, high - x)``, ``c = x + (b - a)/2``, ``r = (a + b)/2``. Computed from the two ends
    instead, nearly every radius would round to zero while eps is small. ``eps`` is in the units of ``x``.
    """
    eps = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    below, above = torch.minimum(eps, x - low), torch.minimum(eps, high - x)
    return Interval(x + (above - below) / 2, (below + above) / 2)


@runtime_checkable
class Region(Protocol):
    """The perturbed inputs of a batch: one region for each sample."""

    @property
    def box(self) -> Interval:
        """A box that contains each region."""

    def minimise(self, form: LinearForm, rounding: Rounding) -> Float[Tensor, "rows batch"]:
        """A lower bound of the minimum of the form over each region."""

    def __getitem__(self, samples: slice | Tensor) -> Region:
        """The regions of some of the samples."""


@dataclass(frozen=True, eq=False)
class Box:
    """An interval for each entry, of any center and radius."""

    box: Interval

    def minimise(self, form: LinearForm, rounding: Rounding) -> Float[Tensor, "rows batch"]:
        return rounding.minimum(form, self.box)

    def minimiser(self, form: LinearForm) -> Float[Tensor, "rows batch *features"]:
        """About the point where the form is least, for attacks; no proof rests on it."""
        return self.box.center - self.box.radius * form.dense(self.box.center.shape[1:]).coeff.sign()

    def __getitem__(self, samples: slice | Tensor) -> Box:
        return Box(self.box[samples])


@dataclass(frozen=True, eq=False)
class EuclideanBall:
    """All points of ``box`` within ``radius`` of ``center`` in the Euclidean norm."""

    center: Float[Tensor, " batch *features"]
    radius: float
    box: Interval

    def minimise(self, form: LinearForm, rounding: Rounding) -> Float[Tensor, "rows batch"]:
        """The dual norm over the ball, ``<A, x> - radius |A|_2 + d``, or the minimum over the box where that is larger."""
        return torch.maximum(rounding.ball_minimum(form, self.center, self.radius), rounding.minimum(form, self.box))

    def minimiser(self, form: LinearForm) -> Float[Tensor, "rows batch *features"]:
        """About the point where the form is least over the ball, clipped to the box."""
        coeff = form.dense(self.center.shape[1:]).coeff
        length = coeff.flatten(2).norm(dim=2).clamp_min(1e-300).reshape(*coeff.shape[:2], *[1] * (coeff.dim() - 2))
        return torch.minimum(torch.maximum(self.center - self.radius * coeff / length, self.box.lower), self.box.upper)

    def __getitem__(self, samples: slice | Tensor) -> EuclideanBall:
        return EuclideanBall(self.center[samples], self.radius, self.box[samples])


def concatenate(parts: Sequence[Region]) -> Region:
    """One batch of samples whose regions differ in size, from one region for each sample."""
    boxes = [part.box for part in parts]
    box = Interval(torch.cat([b.center for b in boxes]), torch.cat([b.radius for b in boxes]))
    return Box(box) if all(isinstance(part, Box) for part in parts) else Mixed(tuple(parts), box)


@dataclass(frozen=True, eq=False)
class Mixed:
    """Regions of any kind, one for each sample, with the box around each."""

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
        indices = torch.arange(len(self.parts))[samples].tolist()
        return Mixed(tuple(self.parts[i] for i in indices), self.box[samples])


class Extent(NamedTuple):
    """How far an entry may move, and its valid range: numbers, or float64 tensors of the shape of one sample."""

    radius: Tensor | float
    low: Tensor | float
    high: Tensor | float


@dataclass(frozen=True)
class Ball(ABC):
    """All inputs within ``eps`` of a sample in a norm, and within the valid range.

    ``eps`` is a fraction of the range ``[low, high]``: for data in 0-255 with eps 8/255 the radius is 8 units.
    """

    eps: Fraction
    low: float = 0.0
    high: float = 1.0

    @property
    def radius(self) -> Fraction:
        """The radius in the units of the data: ``eps (high - low)``, exact."""
        return self.eps * (Fraction(self.high) - Fraction(self.low))

    def radius_of(self, entry: int) -> Fraction:
        """How far one entry of a flattened sample may move, exact."""
        return self.radius

    def extent(self, x: Float[Tensor, " batch *features"]) -> Extent:
        """Radius, to the nearest float64, and valid range of the entries of a sample, on the device of ``x``."""
        return Extent(float(self.radius), self.low, self.high)

    @abstractmethod
    def region(self, x: Float[Tensor, " batch *features"]) -> Region:
        """The region of each sample; it contains every real point of the ball, in spite of rounding."""

    @abstractmethod
    def whole(self, entries: int) -> float:
        """An eps beyond which no larger one is looked for, of samples of so many entries."""


class LinfBall(Ball):
    """Within ``eps`` in every pixel."""

    def box(self, x: Float[Tensor, " batch *features"]) -> Interval:
        """The region of each sample as an Interval, widened to contain every real point of the ball.

        An entry that may not move has radius 0 exactly. Of the others radius and center err by at most ``u |x| + 5 u r``, u the
        unit roundoff. A sample that rounding to float32 moved out of its range still lies in its region.
        """
        unit = torch.finfo(x.dtype).eps / 2
        radius, low, high = (torch.as_tensor(v, dtype=torch.float64).to(x) for v in self.extent(x))
        moves = radius > 0
        radius = torch.where(moves, (radius * (1 + 4 * unit)).clamp_min(torch.finfo(x.dtype).tiny), radius)
        box = clipped_box(x, radius, torch.minimum(low, x), torch.maximum(high, x))
        slack = (x.abs() + 2 * box.radius) * (4 * unit)
        return Interval(box.center, torch.where(moves, box.radius + slack, box.radius))

    def region(self, x: Float[Tensor, " batch *features"]) -> Box:
        return Box(self.box(x))

    def whole(self, entries: int) -> float:
        return 1.0


class L2Ball(Ball):
    """Within ``eps`` in the Euclidean distance."""

    def region(self, x: Float[Tensor, " batch *features"]) -> EuclideanBall:
        """``|d|_inf <= |d|_2``, so that the clipped box of the same radius contains the ball."""
        around = LinfBall(self.eps, self.low, self.high).box(x)
        return EuclideanBall(x, float(self.radius) * (1 + 8 * torch.finfo(x.dtype).eps), around)

    def whole(self, entries: int) -> float:
        return math.sqrt(entries)


BALLS: dict[str, type[Ball]] = {"linf": LinfBall, "l2": L2Ball}
"""The threat models, by the name of their norm."""
