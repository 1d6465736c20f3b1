"""Boxes of all values and lower bounds of linear forms over them, each rounded outward: the equations are in docs/proofs.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from pipeline.checker.graph import FileGraph, Stage
from pipeline.checker.maps import Array

U32, U64, UP = 2.0**-24, 2.0**-53, 1 + 2.0**-30
"""Units of rounding, and more than what a sum of up to ``2^20`` nonnegative float64 numbers loses."""
FLUSHED, FLUSHED_COPY, UNDERFLOW = 2.0**-60, 2.0**-100, 2.0**-900
"""More than what numbers that are flushed to zero lose: in a float32 sum, in its copy, and in float64 here."""
LARGEST, ROWS, DEAD = 2.0**60, 256, 2.0**-90
"""The last: an addend of which a sum loses itself at most, since what it is added to is a float."""

Box = tuple[Array, Array]
Lines = tuple[Array, Array, Array]
"""By row and entry of a ReLU: the lower slope (NaN: the usual one), the sign that is assumed, and its multiplier."""
Near = tuple[Array, Array, Mapping[int, Lines]]
"""Entries of a value, 1 or -1 for a lower or an upper end of each, and by ReLU what each is bounded by."""


class Fault(Exception):
    """A proof that does not hold, in words."""


class Value(NamedTuple):
    """A box, what the evaluation may err by, and what entrywise steps that are folded into it must know."""

    lower: Array
    upper: Array
    error: Array
    terms: int = 0
    """Of the sum into which they may be folded."""
    flushed: float = 0.0
    factor: float = 1.0

    @property
    def size(self) -> Array:
        return np.maximum(np.abs(self.lower), np.abs(self.upper))

    def triangle(self) -> tuple[Array, Array, Array]:
        """Where a sign is open, and ``s``, ``t`` of ``relu(x) <= s x + t`` over the box: ``s = u / (u - l)`` where it is."""
        lower, upper = self.lower, self.upper
        open_ = (lower < 0) & (upper > 0)
        slope = np.where(open_, np.minimum(upper / np.where(open_, upper - lower, 1), 1), lower >= 0)
        highest = np.maximum(-slope * lower, upper - slope * upper) + 2.0**-50 * upper
        return open_, slope, np.where(open_, highest * (1 + 2.0**-50), 0)


def gamma(n: int) -> float:
    """``n u / (1 - n u)``, which bounds the relative error of ``n`` roundings of float32. Raises Fault."""
    if n * U32 > 0.125:
        raise Fault(f"a sum of {n} terms, of which float32 may lose everything")
    return n * U32 / (1 - n * U32) * UP


class CheckerBounds:
    """The values of a graph over a box of its input, met with walks from what ReLUs read: ``tighten``, ``near``. Raises Fault."""

    def __init__(self, graph: FileGraph, box: Box, near: Mapping[int, Near], *, deployed: bool, tighten: bool):
        self.graph, self.deployed, self.chain = graph, deployed, _chains(graph)
        self.values = [Value(*box, np.zeros_like(box[0]))]
        read = {graph.steps[relu - 1].inputs[0] for relu in graph.relus}
        for at, step in enumerate(graph.steps, 1):
            self.values.append(value := self._affine(at, step) if step.maps else self._relu(step))
            if tighten and at in read:
                open_ = np.tile(np.flatnonzero((value.lower < 0) & (value.upper > 0)), 2)
                self._meet(at, open_, np.repeat([1.0, -1.0], len(open_) // 2), {})
            if at in near:
                self._meet(at, *near[at])
            if not (np.isfinite(value.lower) & np.isfinite(value.upper) & (value.lower <= value.upper)).all():
                raise Fault(f"a box of {step.name!r} that is empty or not finite")

    def _meet(self, at: int, entries: Array, sign: Array, assumed: Mapping[int, Lines]) -> None:
        for rows in some(len(entries)):
            form = np.zeros((len(entries[rows]), len(self.values[at].lower)))
            form[np.arange(len(form)), entries[rows]] = sign[rows]
            lines = {relu: (a[rows], s[rows], b[rows]) for relu, (a, s, b) in assumed.items()}
            least, above = self.least({at: form}, lines), sign[rows] < 0
            np.maximum.at(self.values[at].lower, entries[rows][~above], least[~above])
            np.minimum.at(self.values[at].upper, entries[rows][above], -least[above])

    def _relu(self, step: Stage) -> Value:
        source, flush = self.values[step.inputs[0]], FLUSHED_COPY if self.deployed else 0.0
        lower, upper = np.maximum(source.lower, 0) - flush, np.maximum(source.upper, 0) + flush
        return Value(lower, upper, np.full_like(lower, flush))

    def _affine(self, at: int, step: Stage) -> Value:
        """``W c + b``, and ``|W| r + e`` around it."""
        charged = self._charged(at, step)
        middle, radius = step.offset, charged.error
        for i, map_ in zip(step.inputs, step.maps, strict=True):
            center = (self.values[i].lower + self.values[i].upper) / 2
            spread = np.maximum(self.values[i].upper - center, center - self.values[i].lower)
            middle = middle + map_.apply(center[None])[0]
            radius = radius + map_.size(spread[None])[0] * UP
        lower, upper = np.nextafter(middle - radius * UP, -np.inf), np.nextafter(middle + radius * UP, np.inf)
        return charged._replace(lower=lower, upper=upper)

    def _charged(self, at: int, step: Stage) -> Value:
        """What an affine step may err by: in float64 here, and in float32 where it is deployed."""
        sources = [self.values[i] for i in step.inputs]
        pairs = list(zip(step.maps, sources, strict=True))
        sizes = sum(m.size(x.size[None])[0] for m, x in pairs) + step.size
        fan_in, fan_out = (max(fans) for fans in zip(*((m.fan_in, m.fan_out) for m in step.maps), strict=True))
        terms, flushed = max(x.terms for x in sources), max(x.flushed for x in sources)
        factor = max(x.factor for x in sources) * step.factor
        error = (2 * (fan_in + fan_out) + len(sizes) + 64) * U64 * sizes + UNDERFLOW
        if not sizes.max() < LARGEST or factor > LARGEST:
            raise Fault(f"numbers beyond 2^60 at {step.name!r}, where float32 may overflow")
        if self.deployed and fan_in:
            weights = max(float(m.size(np.ones((1, len(x.lower)))).max()) for m, x in pairs)
            peak = max(float(x.size.max()) for x in sources) + float(np.max(step.size))
            own = FLUSHED * (fan_in + 1) * (1 + peak + weights)
            terms, flushed = (fan_in, own) if step.sums else (terms, own + flushed)
            alive, reach, more = terms, sizes, 8 + 6 * self.chain[at]
            if step.sums:
                ((map_, x),) = pairs
                p, n = (np.maximum(end, 0)[None] for end in (x.upper, -x.lower))
                alive, apart = map_.count(x.size[None] > DEAD)[0], map_.apply(p - n)[0] + step.offset
                reach = (map_.size(p + n)[0] + step.size + np.abs(apart)) / 2
            error = error + U32 * (1 + gamma(terms + more)) * UP * (alive * reach + more * sizes) + flushed
        return Value(sizes, sizes, error * UP, terms, flushed, factor)

    def least(self, forms: Mapping[int, Array], assumed: Mapping[int, Lines], *, tail: bool = False) -> Array:
        """Lower bounds of ``sum <A_v, v>`` over the input's box, a row each; with ``tail`` over the boxes of the last ReLUs."""
        pending, parts, charge = dict(forms), [], np.zeros(len(next(iter(forms.values()))))

        def push(at: int, a: Array) -> None:
            nonlocal charge
            if at in pending:
                a = pending[at] + a
                charge = charge + np.abs(a) @ self.values[at].size * (2 * U64)
            pending[at] = a

        for at in range(max(forms), 0, -1):
            step = self.graph.steps[at - 1]
            if at not in pending or (tail and not step.maps):
                continue
            a, error = pending.pop(at), self.values[at].error
            if step.maps:
                parts.append((a * step.offset).sum(1))
                charge = charge + np.abs(a) @ error
                for i, map_ in zip(step.inputs, step.maps, strict=True):
                    push(i, map_.pull(a))
                continue
            (source,) = step.inputs
            falling, (below, above, offset), (_, _, highest) = np.minimum(a, 0), *self._lines(at, assumed)
            parts.append((falling * offset).sum(1))
            lost = 4 * U64 * self.values[source].size + (a.shape[1] + 64) * U64 * highest + error + UNDERFLOW
            charge = charge + np.abs(a) @ lost
            push(source, np.maximum(a, 0) * below + falling * above)
            if at in assumed:
                push(source, -assumed[at][2] * assumed[at][1])
        for at, a in pending.items():
            box = self.values[at]
            parts.append(np.where(a >= 0, a * box.lower, a * box.upper).sum(1))
            charge = charge + np.abs(a) @ box.size * ((a.shape[1] + 64) * U64)
        return sum(parts) - (charge * UP + sum(map(np.abs, parts)) * (4 * (len(parts) + 2) * U64) + UNDERFLOW) * UP

    def _lines(self, at: int, assumed: Mapping[int, Lines]) -> tuple[Lines, Lines]:
        """``a x <= relu(x) <= s x + t`` under what is assumed: ``a``, ``s`` and ``t``; and where nothing is."""
        source = self.values[self.graph.steps[at - 1].inputs[0]]
        whole = open_, above, offset = source.triangle()
        below = np.where(open_, source.upper > -source.lower, above)
        if at in assumed:
            slopes, sign, _ = assumed[at]
            below = np.where(open_ & ~np.isnan(slopes), slopes, below)
            below, above = (np.where(sign > 0, 1.0, np.where(sign < 0, 0.0, line)) for line in (below, above))
            offset = np.where(sign == 0, offset, 0)
        return (below, above, offset), whole


def _chains(graph: FileGraph) -> list[int]:
    """By value, how many entrywise steps a runtime may fold together with its own: those before and behind it up to a ReLU."""
    entrywise = [0, *(int(bool(s.maps) and not s.sums and s.maps[0].fan_in == 1) for s in graph.steps)]
    before, after = [0] * len(entrywise), [0] * len(entrywise)
    affine = [(at, step) for at, step in enumerate(graph.steps, 1) if step.maps]
    for at, step in affine:
        before[at] = max(before[i] + entrywise[i] for i in step.inputs)
    for at, step in reversed(affine):
        for i in step.inputs:
            after[i] = max(after[i], after[at] + entrywise[at])
    return [b + a + e for b, a, e in zip(before, after, entrywise, strict=True)]


def some(count: int) -> Iterator[slice]:
    """So many rows as are walked together, and the next."""
    return (slice(start, start + ROWS) for start in range(0, count, ROWS))
