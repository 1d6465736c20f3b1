"""Interval: a box of values, as interval bound propagation carries it; Lockstep: a box beside its clean value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """The box ``{y : |y - center| <= radius}``, in exact real arithmetic on the two stored tensors.

    Center and radius are kept, not the two ends: an affine map acts on them separately (``W c + b`` and ``|W| r``, two
    products instead of four), and a radius far below the spacing of floats around the center survives.
    """

    center: Float[Tensor, " *shape"]
    radius: Float[Tensor, " *shape"]

    @property
    def lower(self) -> Float[Tensor, " *shape"]:
        """The lower end ``c - r``, rounded outward: at most the real one."""
        return torch.nextafter(self.center - self.radius, torch.full_like(self.center, -torch.inf))

    @property
    def upper(self) -> Float[Tensor, " *shape"]:
        """The upper end ``c + r``, rounded outward: at least the real one."""
        return torch.nextafter(self.center + self.radius, torch.full_like(self.center, torch.inf))

    @property
    def magnitude(self) -> Float[Tensor, " *shape"]:
        """``|c| + r``, the largest absolute value in the box (round to nearest)."""
        return self.center.abs() + self.radius

    def __getitem__(self, samples: slice | Tensor) -> Interval:
        """The boxes of some of the samples."""
        return Interval(self.center[samples], self.radius[samples])


@dataclass(frozen=True)
class Lockstep:
    """One value of a training walk: the clean activation beside its box, so that batch statistics come from the former."""

    clean: Float[Tensor, " *shape"]
    center: Float[Tensor, " *shape"]
    radius: Float[Tensor, " *shape"]

    @property
    def box(self) -> Interval:
        return Interval(self.center, self.radius)


def at_least_float32(value: Tensor) -> Tensor:
    """The value in float32, or unchanged in float64: in training products may be bfloat16, while sums of them are not."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def each_box(
    inputs: tuple[Interval | Tensor, ...], change: Callable[[Interval], Interval]
) -> tuple[Interval | Tensor, ...]:
    """The inputs of an operator with each box changed, and constants as they are."""
    return tuple(change(x) if isinstance(x, Interval) else x for x in inputs)


def magnitude_as_radius(x: Interval) -> Interval:
    """The box around zero of radius ``|c| + r``."""
    return Interval(torch.zeros_like(x.center), x.magnitude)


def peak(inputs: tuple[Interval | Tensor, ...], rank: int) -> Tensor:
    """The largest magnitude in each sample, shaped to broadcast over an output of that rank."""
    boxes = [x for x in inputs if isinstance(x, Interval)]
    peak = torch.stack([x.magnitude.reshape(len(x.radius), -1).amax(1) for x in boxes]).amax(0)
    return peak.reshape(-1, *[1] * (rank - 1))


def size_of(value: Tensor | float) -> Tensor | float:
    """``|value|``; the built-in function has no type that says so."""
    return value.abs() if isinstance(value, Tensor) else abs(value)
