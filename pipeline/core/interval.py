"""Interval: a box of values, what interval bound propagation carries; and Lockstep, a box beside the value it is about."""

from __future__ import annotations

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
    """One value of the training walk: the clean activation beside the box, so that batch statistics come from the former."""

    clean: Float[Tensor, " *shape"]
    center: Float[Tensor, " *shape"]
    radius: Float[Tensor, " *shape"]

    @property
    def box(self) -> Interval:
        return Interval(self.center, self.radius)


def full(value: Tensor) -> Tensor:
    """The value in float32, or in float64 where it is: products may be bfloat16 in training, what is summed of them is not."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
