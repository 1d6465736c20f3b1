"""What the walks carry: tensors and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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


@dataclass(frozen=True)
class LinearForm:
    """A lower bound: ``<coeff, y> + const <= `` the quantity wanted, for every ``y`` that the walk admits.

    There is no upper form: the upper bound of a quantity is minus the lower bound of its negation. Coefficients that are
    zero outside a window of the last axes may leave the rest out: ``origin`` says where the window begins.
    """

    coeff: Float[Tensor, "rows batch *features"]
    const: Float[Tensor, "rows batch"]
    origin: tuple[int, ...] = ()

    def __add__(self, other: LinearForm) -> LinearForm:
        a, b = self._beside(other), other._beside(self)
        return LinearForm(a.coeff + b.coeff, a.const + b.const, a.origin)

    def within(self, value: Tensor) -> Tensor:
        """The part of a value, broadcastable to the node's entries, that the window covers."""
        for axis, start in zip(range(-len(self.origin), 0), self.origin, strict=True):
            if value.dim() >= -axis and value.shape[axis] > 1:
                value = value.narrow(axis, start, self.coeff.shape[axis])
        return value

    def over(self, box: Interval) -> Interval:
        """The same of a box."""
        return Interval(self.within(box.center), self.within(box.radius)) if self.origin else box

    def dense(self, shape: Sequence[int]) -> LinearForm:
        """The same form without a window, over features of ``shape``."""
        if not self.origin:
            return self
        widened = self._widened((0,) * len(self.origin), shape[len(shape) - len(self.origin) :])
        return LinearForm(widened.coeff, self.const)

    def _beside(self, other: LinearForm) -> LinearForm:
        """The form on the least window that covers both; where only one has a window, the other is whole already."""
        if self.origin == other.origin and self.coeff.shape == other.coeff.shape:
            return self
        if not self.origin or not other.origin:
            return self.dense(other.coeff.shape[2:])
        rank = len(self.origin)
        ends = [
            max(o + n for o, n in ends)
            for ends in zip(*(zip(f.origin, f.coeff.shape[-rank:], strict=True) for f in (self, other)), strict=True)
        ]
        origin = tuple(map(min, self.origin, other.origin))
        return self._widened(origin, [end - start for start, end in zip(origin, ends, strict=True)])

    def _widened(self, origin: tuple[int, ...], size: Sequence[int]) -> LinearForm:
        pads: list[int] = []
        for have, want, n, m in zip(self.origin, origin, self.coeff.shape[-len(origin) :], size, strict=True):
            pads = [have - want, want + m - have - n, *pads]
        return LinearForm(F.pad(self.coeff, pads), self.const, origin)
