"""Maxima and minima: of windows, over axes, of two values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.floating_point import dot
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.rounding import EXACT, Rounding
from pipeline.rules.multi_input import Negated, constant_part, copies, negate, operand_forms
from pipeline.rules.relax import Relaxation
from pipeline.rules.rule import Example, Monotone, Rule, Value, rule

MaxPool = nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d


@dataclass(frozen=True, eq=False)
class Contest:
    """``z = max_j x_j`` over the last axis of the boxes ``[lower, upper]``, between one entry and a line of another.

    ``x_p <= z <= max(x_q, V) <= s x_q + t``: ``p`` the entry of the greatest centre, ``q`` that of the greatest upper end,
    ``V`` the greatest upper end of the others, and the line the chord of the convex ``max(., V)`` over ``[l_q, u_q]``. It is
    exact where one entry dominates, ``l_q >= V``. At the centre of the box it is nowhere above DeepPoly's constant (Singh
    et al., POPL 2019, section 4.4), nor above ReLU's chord on the difference of two entries.
    """

    below: Tensor
    """``p``"""
    above: Tensor
    """``q``"""
    slope: Tensor
    offset: Tensor
    size: Tensor
    """The largest magnitude among the entries."""

    @staticmethod
    def of(lower: Tensor, upper: Tensor, rounding: Rounding) -> Contest:
        """The contest of entries between ``lower`` and ``upper``; an entry that is padding has both at minus infinity."""
        ends = F.pad(upper, (0, 1), value=-torch.inf).topk(2, dim=-1)  # padded: a window of one entry has no second
        q, u, v = ends.indices[..., 0].clamp_max(upper.shape[-1] - 1), ends.values[..., 0], ends.values[..., 1]
        l = lower.gather(-1, q[..., None])[..., 0]  # noqa: E741
        decided = l >= v
        # The divisor is made safe before dividing, else the gradient would be NaN where u = l.
        s = torch.where(decided, 1.0, (u - v) / torch.where(decided, 1.0, u - l)).clamp(0, 1)
        t = torch.maximum(v - s * l, u - s * u) + rounding.own_error(l.abs() + u.abs() + v.abs(), 2)
        takes_part = upper > -torch.inf
        size = torch.where(takes_part, torch.maximum(lower.abs(), upper.abs()), 0.0).amax(-1)
        # Comparisons with NaN are false: NaN must be passed on explicitly.
        undefined = torch.where(upper.isnan() | lower.isnan(), torch.nan, 0.0).sum(-1)
        return Contest(
            torch.where(takes_part, lower + upper, -torch.inf).argmax(-1),
            q,
            s,
            torch.where(decided, 0.0, t) + undefined,
            size,
        )


@dataclass(frozen=True, eq=False)
class Windows(Relaxation):
    """The maxima of windows of one value: ``<A, z> >= <A+, x_p> + <A-, s x_q + t>``, scattered back to ``p`` and ``q``."""

    contest: Contest
    index: Tensor
    """Which features of the input each window reads, flat: (1, *outputs, entries)."""
    features: torch.Size
    slack: Tensor | None
    rounding: Rounding

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        falls, c = form.coeff.clamp_max(0), self.contest
        rows, batch = form.coeff.shape[:2]
        pulled = form.coeff.new_zeros(rows, batch, self.features.numel())
        # Windows overlap: coefficients of the same entry are added.
        for coeff, entry in ((form.coeff.clamp_min(0), c.below), (falls * c.slope, c.above)):
            place = self.index.expand(batch, *self.index.shape[1:]).gather(-1, entry[..., None]).reshape(1, batch, -1)
            pulled = pulled.scatter_add(2, place.expand(rows, -1, -1), coeff.reshape(rows, batch, -1))
        const = self.rounding.descend(form.const, dot(falls, c.offset), form.coeff, self.slack)
        return (LinearForm(pulled.unflatten(2, self.features), const),)


def _gather(end: Tensor, index: Tensor) -> Tensor:
    """The entries of each window, (batch, *outputs, entries); minus infinity for padding."""
    entries = end.flatten(1)[:, index[0].clamp_min(0)]
    return torch.where(index < 0, -torch.inf, entries)


class _WindowRule(Monotone[nn.Module]):
    """The maximum is nondecreasing in every entry, so that the box is ``[max l, max u]``; it rounds nothing."""

    @abstractmethod
    def index(self, op: nn.Module, x: Tensor) -> Tensor:
        """The features of ``x`` that each output reads, as flat indices (1, *outputs, entries), -1 for padding."""

    def relax(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        (x,) = xs
        assert isinstance(x, Interval)
        index = self.index(op, x.center)
        lower, upper = (_gather(end, index) for end in rounding.ends(x))
        contest = Contest.of(lower, upper, rounding)
        readers = float(torch.bincount(index[index >= 0]).max())
        box = Interval(torch.zeros_like(contest.size), contest.size)
        slack = rounding.lines_slack(box, readers, contest.offset.abs())
        return Windows(contest, index.clamp_min(0), x.center.shape[1:], slack, rounding)

    def loose(self, op: nn.Module, x: Interval) -> Tensor:
        """The entries that may be the maximum of a window in which none dominates."""
        index = self.index(op, x.center)
        lower, upper = (_gather(end, index) for end in (x.center - x.radius, x.center + x.radius))
        may_win = upper >= lower.amax(-1, keepdim=True)
        open_ = may_win & (may_win.sum(-1, keepdim=True) > 1)
        place = torch.where(index < 0, x.center[0].numel(), index).expand_as(open_).flatten(1)
        counts = torch.zeros(len(open_), x.center[0].numel() + 1, dtype=torch.int32, device=open_.device)
        counts = counts.scatter_add(1, place, open_.flatten(1).to(torch.int32))[:, :-1].view(x.center.shape)
        return (counts > 0) & (x.radius > 0)


@rule(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
class MaxPoolRule(_WindowRule):
    """The maximum of each window, with any stride, padding, dilation and ``ceil_mode``."""

    def index(self, op: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(op, MaxPool)
        rank = x.dim() - 2
        kernel, stride, padding, dilation = (
            (s,) * rank if isinstance(s, int) else tuple(s)
            for s in (op.kernel_size, op.stride, op.padding, op.dilation)
        )
        index = torch.arange(x[0].numel(), device=x.device).reshape(1, *x.shape[1:])
        for axis, n in enumerate(op(x[:1]).shape[2:], start=2):
            k, s, p, d = (setting[axis - 2] for setting in (kernel, stride, padding, dilation))
            extent = d * (k - 1) + 1
            beyond = (n - 1) * s + extent - x.shape[axis] - p  # negative where no window reads the last entries
            pads = [0, 0] * (index.dim() - 1 - axis) + [p, beyond]
            index = F.pad(index, pads, value=-1).unfold(axis, extent, s)[..., ::d]
        return index.flatten(x.dim())

    def examples(self) -> Iterator[Example]:
        yield Example(nn.MaxPool2d(3, stride=2), ((2, 8, 7, 7),))
        yield Example(nn.MaxPool2d(3, stride=2, padding=1), ((2, 8, 7, 6),))
        yield Example(nn.MaxPool2d((3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1)), ((2, 3, 7, 6),))
        yield Example(nn.MaxPool2d(2, stride=2, ceil_mode=True), ((2, 3, 5, 7),))
        yield Example(nn.MaxPool2d(3, stride=1, padding=1), ((2, 2, 4, 4),))
        yield Example(nn.MaxPool1d(2), ((2, 8, 6),))
        yield Example(nn.MaxPool3d(2), ((2, 3, 4, 4, 2),))


@rule(ops.ReduceMax)
class ReduceMaxRule(_WindowRule):
    """The maximum over axes."""

    def refuses(self, op: nn.Module, abstract: tuple[bool, ...]) -> str | None:
        assert isinstance(op, ops.ReduceMax | ops.ReduceMin)
        return "it reduces over the batch" if 0 in op.dims else None

    def index(self, op: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(op, ops.ReduceMax | ops.ReduceMin)
        dims = sorted(d % x.dim() for d in op.dims)
        index = torch.arange(x[0].numel(), device=x.device).reshape(1, *x.shape[1:])
        index = index.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
        return index.reshape(*op(x[:1]).shape, -1)

    def examples(self) -> Iterator[Example]:
        yield Example(ops.ReduceMax((2, 3), keepdim=True), ((2, 8, 3, 4),))
        yield Example(ops.ReduceMax((-1, 1), keepdim=False), ((2, 3, 4, 2),))


@rule(ops.ReduceMin)
class ReduceMinRule(ReduceMaxRule):
    """``min x = -max(-x)``."""

    def relax(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        return Negated(super().relax(op, *(negate(x) for x in xs), rounding=rounding))

    def loose(self, op: nn.Module, x: Interval) -> Tensor:
        return super().loose(op, Interval(-x.center, x.radius))

    def examples(self) -> Iterator[Example]:
        yield Example(ops.ReduceMin((2, 3), keepdim=True), ((2, 8, 3, 4),))
        yield Example(ops.ReduceMin((1,), keepdim=False), ((3, 9),))


@dataclass(frozen=True, eq=False)
class PairRelaxation(Relaxation):
    """The greater of two values, each broadcast: a window of two whose entries lie in different tensors."""

    contest: Contest
    operands: Sequence[Value]
    slack: Tensor | None
    rounding: Rounding

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        rises, falls, c = form.coeff.clamp_min(0), form.coeff.clamp_max(0), self.contest
        shares = [rises * (c.below == i) + falls * torch.where(c.above == i, c.slope, 0.0) for i in (0, 1)]
        added = dot(falls, c.offset) + constant_part(shares, self.operands)
        const = self.rounding.descend(form.const, added, form.coeff, self.slack)
        return operand_forms(shares, self.operands, const)


@rule(ops.Max)
class MaxRule(Rule[nn.Module]):
    """The greater of two values: ``[max(l, l'), max(u, u')]``; it rounds nothing."""

    def interval(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        ends = [rounding.ends(x) if isinstance(x, Interval) else (x, x) for x in xs]
        lower, upper = (op(*pair) for pair in zip(*ends, strict=True))
        return rounding.enclose(lower, upper)

    def relax(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        ends = [rounding.ends(x) if isinstance(x, Interval) else (x, x) for x in xs]
        lower, upper = (torch.stack(torch.broadcast_tensors(*pair), -1) for pair in zip(*ends, strict=True))
        contest = Contest.of(lower, upper, rounding)
        box = Interval(torch.zeros_like(contest.size), contest.size)
        slack = rounding.lines_slack(box, float(copies(*xs)), contest.offset.abs() + contest.size)
        return PairRelaxation(contest, xs, slack, rounding)

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Max(), ((3, 9), (3, 9)))
        yield Example(ops.Max(), ((3, 8, 4), (3, 8, 1)))
        yield Example(ops.Max(), ((3, 9), torch.randn(9)))


@rule(ops.Min)
class MinRule(MaxRule):
    """``min(x, y) = -max(-x, -y)``."""

    def relax(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        return Negated(super().relax(ops.Max(), *(negate(x) for x in xs), rounding=rounding))

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Min(), ((3, 9), (3, 9)))
        yield Example(ops.Min(), (torch.randn(8, 1), (3, 8, 4)))
