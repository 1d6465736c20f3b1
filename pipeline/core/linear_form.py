"""LinearForm: a lower bound that is linear in the values of a node, as backward walks (CROWN) carry it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.core.interval import Interval


@dataclass(frozen=True)
class LinearForm:
    """A lower bound: ``<coeff, y> + const <= `` the quantity to bound, for every value ``y`` of the node in the region.

    There is no upper form: the upper bound of a quantity is minus the lower bound of its negation. Where coefficients are zero
    outside a window of the last axes, ``coeff`` may hold the window alone; ``origin`` then says where it begins on these axes.
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
        """The part of a box that the window covers."""
        return Interval(self.within(box.center), self.within(box.radius)) if self.origin else box

    def dense(self, shape: Sequence[int]) -> LinearForm:
        """The same form without a window, over features of ``shape``."""
        if not self.origin:
            return self
        widened = self._widened((0,) * len(self.origin), shape[len(shape) - len(self.origin) :])
        return LinearForm(widened.coeff, self.const)

    def _beside(self, other: LinearForm) -> LinearForm:
        """This form on the smallest window that covers both forms; where only one has a window, the other is dense already."""
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
        for old, new, n, m in zip(self.origin, origin, self.coeff.shape[-len(origin) :], size, strict=True):
            pads = [old - new, new + m - old - n, *pads]
        return LinearForm(F.pad(self.coeff, pads), self.const, origin)
