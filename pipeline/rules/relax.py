"""Linear relaxations: an operator between linear functions over the boxes of its inputs; the steps of a backward walk.

A relaxation is made once for given boxes and applied to any number of rows. The rounding error of its evaluation is charged to
the constant, through one nonnegative vector ``slack`` over the operator's outputs.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.floating_point import dot
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.rounding import Rounding

Origin = tuple[int, ...]
Window = Callable[[Tensor, Origin], Sequence[tuple[Tensor | None, Origin]]]
"""From coefficients ``A`` on a window and its origin: ``A W`` for each input, on the window that it reaches, and its origin."""


class Relaxation(ABC):
    """Turns a lower form over an operator's output into lower forms over its inputs."""

    start: Tensor | None = None
    """The initial ``alpha`` of a search for better slopes, each entry in [0, 1]: (choices, batch, *features), or None."""
    windowed: bool = False
    """Whether ``pull_back`` accepts forms on a window; otherwise they must be dense."""

    @abstractmethod
    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        """One form for each input, None for a constant; ``alpha``, (choices, rows, batch, *features), chooses slopes."""


@dataclass(frozen=True, eq=False)
class AffineMap(Relaxation):
    """``y = W x + b``: ``<A, y> + d = <A W, x> + d + <A, b>``, exact but for rounding."""

    transpose: Callable[[Tensor], tuple[Tensor | None, ...]]
    constant: Tensor | None
    slack: Tensor | None
    rounding: Rounding
    window: Window | None = None

    @property
    def windowed(self) -> bool:  # type: ignore[override]
        return self.window is not None

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        added = None if self.constant is None else dot(form.coeff, form.within(self.constant))
        slack = None if self.slack is None else form.within(self.slack)
        const = self.rounding.descend(form.const, added, form.coeff, slack)
        pulled: list[LinearForm | None] = []
        for coeff, origin in self._transposed(form):
            pulled.append(None if coeff is None else LinearForm(coeff, const, origin))
            const = const if coeff is None else torch.zeros_like(const)
        return tuple(pulled)

    def _transposed(self, form: LinearForm) -> Sequence[tuple[Tensor | None, Origin]]:
        if form.origin:
            assert self.window is not None
            return self.window(form.coeff, form.origin)
        return [(coeff, ()) for coeff in self.transpose(form.coeff)]


@dataclass(frozen=True, eq=False)
class Chain(Relaxation):
    """One operator composed of two: forms are pulled back through ``after`` first."""

    before: Relaxation
    after: Relaxation

    @property
    def windowed(self) -> bool:  # type: ignore[override]
        return self.before.windowed and self.after.windowed

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        (inner,) = self.after.pull_back(form)
        assert inner is not None
        return self.before.pull_back(inner)


@dataclass(frozen=True, eq=False)
class Line:
    """The line ``slope x + offset`` in each entry; None is an offset of zero."""

    slope: Tensor
    offset: Tensor | None = None


class Lines(Relaxation):
    """An elementwise function between two lines: ``below(x) <= f(x) <= above(x)`` on the box, in exact arithmetic.

    ``<A, f(x)> >= <A+, below(x)> + <A-, above(x)>`` (Zhang et al., CROWN, arXiv 1811.00866, theorem 3.2). The lines must
    already allow for what the deployed ``f`` may err by; ``steepest`` bounds the absolute slope of every line that
    ``steer`` may choose, ``highest`` its absolute offset.
    """

    windowed = True

    def __init__(
        self,
        box: Interval,
        below: Line,
        above: Line,
        *,
        rounding: Rounding,
        steepest: Tensor | float,
        highest: Tensor | float,
        start: Tensor | None = None,
        steer: Callable[[Tensor], tuple[Line, Line]] | None = None,
        pieces: tuple[float, float] | None = None,
    ):
        self.below, self.above, self.rounding = below, above, rounding
        self.start, self.steer, self.pieces = start, steer, pieces
        self.slack = rounding.lines_slack(box, steepest, highest)

    def split(self, sign: Tensor) -> Lines:
        """The relaxation where ``sign x >= 0`` is assumed; ``sign``, (rows, batch, *features), is 0 for no assumption."""
        assert self.pieces is not None
        left, right = self.pieces

        def on_piece(line: Line) -> Line:
            slope = torch.where(sign > 0, right, torch.where(sign < 0, left, line.slope))
            return Line(slope, None if line.offset is None else torch.where(sign == 0, line.offset, 0.0))

        def steer(alpha: Tensor) -> tuple[Line, Line]:
            below, above = (self.below, self.above) if self.steer is None else self.steer(alpha)
            return on_piece(below), on_piece(above)

        result = copy.copy(self)
        result.below, result.above, result.steer = on_piece(self.below), on_piece(self.above), steer
        return result

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        below, above = (self.below, self.above) if alpha is None or self.steer is None else self.steer(alpha)
        positive, negative = form.coeff.clamp_min(0), form.coeff.clamp_max(0)
        added = None
        for line, part in ((below, positive), (above, negative)):
            if line.offset is not None:
                term = _dot(part, form.within(line.offset))
                added = term if added is None else added + term
        slack = None if self.slack is None else form.within(self.slack)
        const = self.rounding.descend(form.const, added, form.coeff, slack)
        # One of the two products is zero: the sum rounds once, as ``torch.where`` would, in a quarter of its time.
        rising, falling = form.within(below.slope), form.within(above.slope)
        if torch.is_grad_enabled():
            coeff = positive * rising + negative * falling
        else:
            coeff = positive.mul_(rising).addcmul_(negative, falling)
        return (LinearForm(coeff, const, form.origin),)


def _dot(coeff: Tensor, value: Tensor) -> Tensor:
    """``<A, y>``, where ``y`` may differ from row to row."""
    return (coeff * value).reshape(*coeff.shape[:2], -1).sum(2) if value.dim() == coeff.dim() else dot(coeff, value)
