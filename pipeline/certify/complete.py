"""Branch and bound: one sample decided to the end, by splitting the signs of ReLUs (Bunel et al., arXiv 1909.06588).

A margin that no linear bound proves over the whole region is proved over its parts: a neuron whose sign is open is assumed
to be active in one half and inactive in the other, and both are bounded again (``bounds/splits.py``). What is searched for
is searched for without rounding; a part counts as proved by one walk that accounts for it. The point that minimises each
bound is put to the file, so that what has a counterexample is falsified on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.bounds.ascent import Ascent, SearchBounds
from pipeline.bounds.branching import halves_of
from pipeline.bounds.intermediate import optimised
from pipeline.bounds.linear import Bounds
from pipeline.bounds.margins import MarginBounds, margin_form
from pipeline.bounds.splits import Domains, SplitBounds
from pipeline.core.linear_form import LinearForm
from pipeline.core.threat import Region

AS_IT_IS, ROOT, CHILD = Ascent(0), Ascent(30), Ascent(6)
"""Searches for slopes and multipliers: none, of the whole region, and of a part."""
DOMAINS = 1_000
"""Parts that a sample is divided into at most, unless a run says otherwise."""
ABREAST = 32
"""Parts that are split at once at most."""
EARLY = 64
"""After so many parts the boxes of neurons are bounded again, which costs about as much."""
BESIDES = 1.5
"""A search goes on until its bound exceeds what rounding took from the first one by this factor."""

Judge = Callable[[Tensor], tuple[Tensor, np.ndarray]]
"""Points as the file takes them, and which of these it gives another label."""
End = Literal["proved", "falsified", "domains", "stuck", "charge"]


@dataclass(frozen=True)
class Decision:
    """How the search ended, after how many parts, and how deep they went.

    ``proved``: ``margin`` is the least bound of any part. ``falsified``: ``point`` has another label. Undecided are
    ``domains``: there were too many; ``stuck``: all signs of some part are assumed and its bound is not enough; ``charge``: in
    real arithmetic all would be proved, and what float32 may lose is more than that leaves. ``margin`` is then the least bound
    known of an open part.
    """

    end: End
    domains: int
    deepest: int
    margin: float
    point: Tensor | None = None


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
    rows: int = 2 * ABREAST,
    together: bool = True,
    check: Callable[[], None] = lambda: None,
) -> Decision:
    """Whether every form over the node ``index`` exceeds ``needed`` over the region of ``known``, a batch of one.

    ``rows`` parts are walked at once; the network takes as many points ``together``, or one. ``check`` is called at every split,
    and may raise to end the search.
    """
    return _Search(known, forms, index, judge, needed, domains, rows, together, check).run()


@dataclass(eq=False)
class _Search:
    """One search under way."""

    known: Bounds
    forms: LinearForm
    index: int
    judge: Judge
    needed: float
    domains: int
    rows: int
    together: bool
    check: Callable[[], None]
    done: int = 0
    deepest: int = 0
    least: float = torch.inf
    hopeless: bool = False
    """Whether a point was found whose value leaves less than rounding takes, so that no number of parts is enough."""

    def run(self) -> Decision:
        """First over the boxes that are known, then, where few parts are not enough, over boxes by optimised slopes."""
        every = torch.arange(len(self.forms.const), device=self.forms.const.device)
        found = self._divided(every, min(EARLY, self.domains))
        if isinstance(found, Decision):
            return found
        if self.domains > EARLY:
            self.known = optimised(self.search, self.search.weight(found))
            found = self._divided(found.of.unique(), self.domains)
        return found if isinstance(found, Decision) else self._undecided("domains", found)

    def _divided(self, of: Tensor, most: int) -> Decision | Domains:
        """Some of the forms over the whole region, and over its parts; what is open where there would be more than ``most``."""
        self.split = SplitBounds(self.known, self.forms, self.index, self.rows, self.together)
        self.search = search = SearchBounds(self.split)
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
            self.check()
            order = open_.lower.nan_to_num(-torch.inf).argsort(stable=True)
            taken, rest = open_[order[:ABREAST]], open_[order[ABREAST:]]
            halves, divided, points = halves_of(search, taken, enough)
            tried, fooled = self.judge(torch.minimum(torch.maximum(points.to(box.lower), box.lower), box.upper))
            if fooled.any():
                lowest = float(open_.lower.min())
                return Decision("falsified", self.done, self.deepest, lowest, tried[int(fooled.argmax())])
            room = search.value(taken.of, points) - self.needed
            if not self.hopeless and bool((room <= self.charge[taken.of]).any()):
                self.hopeless, open_ = True, self._left_open(open_)
                continue
            if len(self._left_open(self.split.solved(taken[~divided]))):
                return self._undecided("stuck", open_)
            if self.done + len(halves) > most:
                return open_
            self.done += len(halves)
            self.deepest = max(self.deepest, int((halves.sign != 0).sum(1).amax()) if len(halves) else 0)
            open_ = Domains.joined([rest, self._left_open(search.improved(halves, CHILD, enough))])
        return Decision("charge" if self.hopeless else "proved", self.done, self.deepest, self.least - self.needed)

    def _left_open(self, found: Domains) -> Domains:
        """What is not proved, by the walk that accounts for rounding; where that is hopeless, by one that leaves it out."""
        proof = torch.full_like(self.forms.const[found.of, 0], -torch.inf)
        promising = found.lower > self.needed
        proof[promising] = self.split.proved(found[promising], exact=self.hopeless)
        if not self.hopeless:
            self.charge.scatter_reduce_(0, found.of, (found.lower - proof).clamp_min(0), "amin")
        closed = torch.isfinite(proof) & (proof > self.needed)  # a sum that overflows proves nothing
        self.least = min(self.least, float(proof[closed].min()) if bool(closed.any()) else torch.inf)
        return found[~closed]

    def _undecided(self, end: End, open_: Domains) -> Decision:
        lowest = float(open_.lower.nan_to_num(-torch.inf).min())
        real = lowest > self.needed and bool((self.split.proved(open_, exact=True) > self.needed).all())
        return Decision("charge" if real else end, self.done, self.deepest, lowest - self.needed)
