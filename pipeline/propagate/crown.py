"""Linear bounds: a lower form walked backwards through relaxations until it meets a box (CROWN).

The same walk serves every method. IBP's margins stop at the first operator that is not affine, CROWN-IBP walks on to the
input through relaxations over IBP's boxes, and CROWN first tightens those boxes by walks of their own, one for each neuron
whose sign is still open (Zhang et al., arXiv 1811.00866 and 1906.06316; Xu et al., arXiv 2002.12920).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.arithmetic import EXACT, Rounding
from pipeline.bounds import Interval, LinearForm
from pipeline.network import Network, Plan, Step
from pipeline.propagate import walk
from pipeline.propagate.interval import IntervalWalk
from pipeline.rules import Affine, rule_for
from pipeline.rules.relax import Relaxation
from pipeline.rules.weights import remembering
from pipeline.threat import Region

MEMORY = 1 << 30
"""Bytes that the coefficients of one backward walk may take, unless a caller says otherwise."""
COPIES = 6
"""How many tensors of the size of the coefficients one step of the walk holds at once."""


TILE = 8
"""Into how many tiles each axis of an image is cut, at most, none shorter than 4: rows of one tile share a window."""


def tiles(size: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[int, ...]]]:
    """The tiles of an image of that size (none: one tile without a window), as slices behind batch and channels."""
    sides = [max(4, -(-n // TILE)) for n in size]
    for corner in itertools.product(*(range(0, n, side) for n, side in zip(size, sides, strict=True))):
        spans = (slice(c, c + side) for c, side in zip(corner, sides, strict=True))
        yield (slice(None), slice(None), *spans) if corner else (slice(None),), corner


class LinearWalk:
    """Boxes for every node of a network, and lower bounds of forms over any node, for one batch of regions at a time.

    ``tighten`` bounds the inputs of nonlinearities by backward walks; without ``meet`` such a bound replaces IBP's, of every
    entry, as other tools have it (for comparisons: it is looser). ``check`` is called at every node, and may raise to end a
    walk.
    """

    def __init__(
        self,
        network: Network,
        rounding: Rounding = EXACT,
        plan: Plan | None = None,
        *,
        tighten: bool = False,
        meet: bool = True,
        memory: int = MEMORY,
        fixed: bool = False,
        check: Callable[[], None] = lambda: None,
    ):
        self.walk = IntervalWalk(network, rounding, plan, fixed=fixed)
        self.plan, self.rounding, self.tighten, self.memory = self.walk.plan, rounding, tighten, memory
        self.meet, self.check = meet, check
        self.readers: dict[int, list[Step]] = {}
        for step in self.plan.steps:
            for a in step.args:
                self.readers.setdefault(a, []).append(step)

    @torch.no_grad()
    def over(self, regions: Sequence[Region]) -> Bounds:
        """All boxes over a batch of regions, one region an input of the network."""
        bounds = Bounds(self, regions)
        walk.forward(self.plan, [r.box for r in regions], bounds.enter, keep=walk.EVERYTHING)
        return bounds


class Bounds:
    """What is known of one batch: a box for each node, and a relaxation for each operator that has one.

    ``boxes`` holds what is known beforehand, by node; it is never changed.
    """

    def __init__(
        self, walk_: LinearWalk, regions: Sequence[Region], boxes: Mapping[int, Interval | Tensor] | None = None
    ):
        self.walk, self.plan = walk_, walk_.plan
        self.regions = dict(zip(self.plan.inputs, regions, strict=True))
        self.values: dict[int, Interval | Tensor] = {i: r.box for i, r in self.regions.items()}
        self.values |= {index: getattr(owner, name) for index, owner, name in self.plan.constants}
        self.values |= boxes or {}
        self.other_slopes: dict[int, Tensor] = {}
        """Slopes, as ``alpha`` takes them, that operators would start from over backward bounds not met with IBP's."""
        self._relaxed: dict[tuple[int, bool], Relaxation | None] = {}
        self._size = max(r.box.center[0].numel() for r in regions)
        self._widest = 1

    def box(self, index: int) -> Interval:
        """The box of a node."""
        value = self.values[index]
        assert isinstance(value, Interval)
        return value

    def enter(self, step: Step, *xs: Interval | Tensor) -> Interval:
        """The box of the next node, by IBP from those before it, tightened where an operator after it would gain."""
        self.walk.check()
        args = [self.values.setdefault(a, x) for a, x in zip(step.args, xs, strict=True)]
        box = self.walk.walk.apply(step, *args)
        self.values[step.index] = box
        self._size = max(self._size, box.center[0].numel())
        if self.walk.tighten:
            self.values[step.index] = box = self._tightened(step.index, box)
        return box

    def relaxed(self, step: Step, *, exact: bool = False) -> Relaxation | None:
        """The operator between linear functions over the boxes as they are; ``exact`` leaves rounding out."""
        key = (step.index, exact)
        if key not in self._relaxed:
            rule = rule_for(step.op)
            assert rule is not None
            rounding = EXACT if exact else self.walk.walk.rounding_at(step)
            with remembering(self.walk.walk.facts):
                self._relaxed[key] = rule.relax(step.op, *(self.values[a] for a in step.args), rounding=rounding)
        return self._relaxed[key]

    def lower(
        self,
        forms: Mapping[int, LinearForm],
        *,
        alpha: Mapping[int, Tensor] | None = None,
        until: Callable[[Step], bool] = lambda step: False,
        exact: bool = False,
    ) -> Float[Tensor, "rows batch"]:
        """Lower bounds of the sum of forms over nodes; the walk stops early at steps for which ``until`` is true."""
        rounding = EXACT if exact else self.walk.rounding

        def visit(step: Step, form: LinearForm) -> Sequence[LinearForm | None] | None:
            self.walk.check()
            if until(step):
                return None
            relaxation = self.relaxed(step, exact=exact)
            if relaxation is None:
                return None
            if form.origin and not relaxation.windowed:
                form = form.dense(self.box(step.index).center.shape[1:])
            self._widest = max(self._widest, form.coeff[0, 0].numel())
            return relaxation.pull_back(form, (alpha or {}).get(step.index))

        ends = walk.backward(self.plan, forms, visit, lambda i, a, b: rounding.merge(a, b, self.box(i)))
        parts = [
            self.regions[i].minimise(form, rounding) if i in self.regions else rounding.minimum(form, self.box(i))
            for i, form in ends.items()
        ]
        return rounding.total(parts)

    def rows_at_once(self, batch: int, *, depth: int = 1) -> int:
        """How many rows of coefficients stay within the memory that is allowed; ``depth`` steps of a walk kept at once."""
        return max(1, self.walk.memory // (COPIES * 8 * batch * self._size * depth))

    def _tightened(self, index: int, box: Interval) -> Interval:
        """The box met with backward bounds of every entry that some reader would want tighter."""
        wanted = torch.zeros_like(box.radius, dtype=torch.bool)
        for reader in self.walk.readers.get(index, ()):
            rule = rule_for(reader.op)
            if rule is not None and not isinstance(rule, Affine):
                wanted |= rule.loose(reader.op, box) | (not self.walk.meet)
        if not bool(wanted.any()):
            return box
        lower, upper = (end.clone() for end in self.walk.rounding.ends(box))
        self._widest = 0
        for tile, origin in tiles(wanted.shape[2:]):
            self._replace(index, wanted[tile], lower[tile], upper[tile], origin)
        own = self.walk.rounding.enclose(lower, upper)
        if not self.walk.meet:
            return own
        for reader in self.walk.readers[index]:
            self._suggest(reader, own)
        return self._met(box, lower, upper)

    def _suggest(self, reader: Step, own: Interval) -> None:
        """Remember the slopes that an operator would start from over the backward bounds of its input."""
        rule = rule_for(reader.op)
        if rule is None or isinstance(rule, Affine) or len(reader.args) > 1:
            return
        relaxation = rule.relax(reader.op, own, rounding=self.walk.walk.rounding_at(reader))
        if relaxation is not None and relaxation.start is not None:
            self.other_slopes[reader.index] = relaxation.start[:, None]

    def _replace(self, index: int, wanted: Tensor, lower: Tensor, upper: Tensor, origin: tuple[int, ...]) -> None:
        """Put backward bounds into ``lower`` and ``upper``, views of one tile of the node, where ``wanted``."""
        count = int(wanted.flatten(1).sum(1).max())
        batch, shape = len(wanted), wanted.shape[1:]
        order = wanted.flatten(1).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
        start = 0
        while start < count:
            # The first rows of a node are few: how wide their windows grow says how many fit from then on.
            room = self.walk.memory // (COPIES * 16 * batch * (self._widest or self._size))
            picked = order[:, start : start + max(1, room)]
            start, rows = start + picked.shape[1], picked.shape[1]
            coeff = torch.zeros(2 * rows, batch, shape.numel(), dtype=lower.dtype, device=lower.device)
            coeff[:rows].scatter_(2, picked.T[..., None], 1.0)
            coeff[rows:] = -coeff[:rows]
            form = LinearForm(coeff.unflatten(2, shape), torch.zeros_like(coeff[..., 0]), origin)
            ends = self.lower({index: form})
            for side, found in ((lower, ends[:rows].T), (upper, -ends[rows:].T)):
                side.copy_(side.flatten(1).scatter(1, picked, found).unflatten(1, shape))

    def _met(self, box: Interval, lower: Tensor, upper: Tensor) -> Interval:
        """``[lower, upper]`` met with the box: a bound that is NaN says nothing, ends that cross prove a fault and become NaN."""
        ends = self.walk.rounding.ends(box)
        lower, upper = torch.fmax(ends[0], lower), torch.fmin(ends[1], upper)
        new = self.walk.rounding.enclose(lower, upper)
        smaller = new.radius < box.radius
        crossed = torch.where(lower <= upper, 0.0, torch.nan)
        return Interval(
            torch.where(smaller, new.center, box.center), torch.where(smaller, new.radius, box.radius) + crossed
        )
