"""Branch and bound: one sample decided to the end, by splitting the signs of ReLUs (Bunel et al., arXiv 1909.06588).

A margin that no linear bound proves over the whole region is proved over its parts: a neuron whose sign is open is assumed
to be active in one half and inactive in the other, and both are bounded again (``bounds/splits.py``). What is searched for
is searched for without rounding; a part counts as proved by one walk that accounts for it. The point that minimises each
bound is put to the file, so that what has a counterexample is falsified on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds.ascent import Ascent, SearchBounds
from pipeline.bounds.branching import halves_of, losses
from pipeline.bounds.duals import solved
from pipeline.bounds.intermediate import optimised
from pipeline.bounds.linear import Bounds
from pipeline.bounds.margins import MarginBounds, margin_form
from pipeline.bounds.splits import Domains, SplitBounds
from pipeline.certify.decision import ABREAST, Decision, End, Judge, Record, Room
from pipeline.core.linear_form import LinearForm
from pipeline.core.threat import Region
from pipeline.methods import DOMAINS
from pipeline.system.clock import OutOfTime

AS_IT_IS, ROOT, CHILD = Ascent(0), Ascent(30), Ascent(6)
"""Searches for slopes and multipliers: none, of the whole region, and of a part."""
EARLY = 64
"""After so many parts the boxes of neurons are bounded again, which costs about as much."""
BESIDES = 1.5
"""A search goes on until its bound exceeds what rounding took from the first one by this factor."""


def margins_decided(
    bounds: MarginBounds, region: Region, label: Int[Tensor, " one"], judge: Judge, **how: Any
) -> Decision:
    """Whether every margin of one sample is positive over its region; ``bounds`` are those of alpha-CROWN, ``how`` as below."""
    with torch.no_grad():
        known = bounds.linear.over([region])
    logits = known.box(bounds.top.index).center
    forms = margin_form(label, logits.shape[1:], logits.dtype)
    return decide(known, forms, bounds.top.index, judge, needed=bounds.needed(len(forms.const) + 1), **how)


def decide(
    known: Bounds,
    forms: LinearForm,
    index: int,
    judge: Judge,
    *,
    needed: float = 0.0,
    domains: int = DOMAINS,
    room: Room | None = None,
    together: bool = True,
    check: Callable[[], None] = lambda: None,
    timed: bool = False,
    record: Record | None = None,
) -> Decision:
    """Whether every form over the node ``index`` exceeds ``needed`` over the region of ``known``, a batch of one.

    The network takes several points ``together``, or one. ``check`` is called at every split, and may raise to end the search;
    where it raises OutOfTime and the search is ``timed``, what is known by then is the decision. ``record`` is told of
    every leaf that is proved.
    """
    search = _Search(known, forms, index, judge, needed, domains, room or Room(), together, check, record)
    try:
        return search.run()
    except OutOfTime:
        if not timed:
            raise
    return search.interrupted()


def queue(lower: Float[Tensor, " n"], *, crowded: bool) -> Int[Tensor, " n"]:
    """In which order parts are divided: the worst bound first; where they are ``crowded`` the nearest to a proof, so that the
    number of open parts grows no further than with the depth."""
    return lower.nan_to_num(-torch.inf).argsort(stable=True, descending=crowded)


@dataclass(eq=False)
class _Search:
    """One search under way."""

    known: Bounds
    forms: LinearForm
    index: int
    judge: Judge
    needed: float
    domains: int
    room: Room
    together: bool
    check: Callable[[], None]
    record: Record | None = None
    done: int = 0
    deepest: int = 0
    least: float = torch.inf
    hopeless: bool = False
    """Whether a point was found whose value leaves less than rounding takes, so that no number of parts is enough."""
    search: SearchBounds | None = None
    open_: Domains | None = None
    """What stands open."""

    def run(self) -> Decision:
        """First over the boxes that are known, then, where few parts are not enough, over boxes by optimised slopes."""
        every = torch.arange(len(self.forms.const), device=self.forms.const.device)
        found = self._divided(every, min(EARLY, self.domains))
        if isinstance(found, Decision):
            return found
        if self.domains > EARLY:
            assert self.search is not None
            self.known = optimised(self.search, self.search.weight(found), self.record.ends if self.record else None)
            found = self._divided(found.of.unique(), self.domains)
        return found if isinstance(found, Decision) else self._undecided("domains", found)

    def _divided(self, of: Tensor, most: int) -> Decision | Domains:
        """Some of the forms over the whole region, and over its parts; what is open where there would be more than ``most``."""
        self.split = SplitBounds(self.known, self.forms, self.index, self.room.rows, self.together)
        self.search = search = SearchBounds(self.split, self.room.matrices)
        root = search.whole(of, torch.full_like(self.forms.const[of, 0], -torch.inf))
        first = search.improved(root, AS_IT_IS, torch.full_like(self.forms.const[:, 0], torch.inf))
        charge = (first.lower - self.split.proved(first)).nan_to_num(torch.inf, torch.inf, torch.inf).clamp_min(0)
        self.charge = torch.zeros_like(self.forms.const[:, 0]).index_copy(0, of, charge)
        """By form, the least that rounding took from any bound."""
        enough = (self.needed + BESIDES * self.charge).to(first.lower)
        (box,) = (region.box for region in self.known.regions.values())
        self.done += len(root)
        open_ = self._left_open(search.improved(first, ROOT, enough))
        while len(open_):
            self.open_ = open_
            self.check()
            if 2 * open_.nbytes > self.room.parts:  # twice, while they are joined
                return self._undecided("memory", open_)
            order = queue(open_.lower, crowded=4 * open_.nbytes > self.room.parts)
            abreast = max(1, min(ABREAST, (most - self.done) // 2))
            taken, rest = open_[order[:abreast]], open_[order[abreast:]]
            halves, divided, points = halves_of(search, taken, enough)
            tried, fooled = self.judge(torch.minimum(torch.maximum(points.to(box.lower), box.lower), box.upper))
            if fooled.any():
                lowest = float(open_.lower.min())
                return Decision("falsified", self.done, self.deepest, lowest, tried[int(fooled.argmax())])
            room = search.value(taken.of, points) - self.needed
            if not self.hopeless and bool((room <= self.charge[taken.of]).any()):
                self.hopeless, open_ = True, self._left_open(open_)
                continue
            if len(self._left_open(solved(self.split, taken[~divided]))):
                return self._undecided("split", open_)
            if self.done + len(halves) > most:
                return open_
            self.done += len(halves)
            self.deepest = max(self.deepest, int((halves.sign != 0).sum(1).amax()) if len(halves) else 0)
            open_ = Domains.joined([rest, self._left_open(search.improved(halves, CHILD, enough))])
        decision = Decision("charge" if self.hopeless else "proved", self.done, self.deepest, self.least - self.needed)
        return replace(decision, charge=float(self.charge.max()))

    def _left_open(self, found: Domains) -> Domains:
        """What is not proved, by the walk that accounts for rounding; where that is hopeless, by one that leaves it out."""
        proof = torch.full_like(self.forms.const[found.of, 0], -torch.inf)
        promising = found.lower > self.needed
        proof[promising] = self.split.proved(found[promising], exact=self.hopeless)
        if not self.hopeless:
            self.charge.scatter_reduce_(0, found.of, (found.lower - proof).clamp_min(0), "amin")
        closed = torch.isfinite(proof) & (proof > self.needed)  # a sum that overflows proves nothing
        self.least = min(self.least, float(proof[closed].min()) if bool(closed.any()) else torch.inf)
        if self.record is not None and not self.hopeless:
            self.record.leaves(self.split, found[closed])
        return found[~closed]

    def _undecided(self, end: End, open_: Domains) -> Decision:
        lower = open_.lower.nan_to_num(-torch.inf)
        lowest = float(lower.min())
        if end != "time" and lowest > self.needed and bool((self.split.proved(open_, exact=True) > self.needed).all()):
            end = "charge"
        decision = Decision(end, self.done, self.deepest, lowest - self.needed, charge=float(self.charge.max()))
        layer, share = self._loosest(open_[lower.argmin()[None]])
        return replace(decision, layer=layer, share=share)

    def _loosest(self, part: Domains) -> tuple[str | None, float | None]:
        """The layer of ReLUs in whose lines the bound of a part loses most, and its share of the whole loss."""
        assert self.search is not None
        lost = losses(self.search, part)[0]
        by_layer = [float(lost[mine].sum()) for _, _, mine in self.split.layers]
        if not by_layer or not 0 < sum(by_layer) < torch.inf:
            return None, None
        most = max(range(len(by_layer)), key=lambda i: by_layer[i])
        name = self.known.linear.intervals.network.origin(self.split.layers[most][0].name)
        return name, min(1.0, by_layer[most] / sum(by_layer))

    def interrupted(self) -> Decision:
        """What is known where the clock ran out."""
        with suppress(OutOfTime):
            if self.open_ is not None:
                return self._undecided("time", self.open_)
        return Decision("time", self.done, self.deepest, -torch.inf)
