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

from pipeline.bounds.branching import halves_of
from pipeline.bounds.linear import Bounds
from pipeline.bounds.margins import MarginBounds, margin_form
from pipeline.bounds.splits import Ascent, Domains, SplitBounds
from pipeline.core.linear_form import LinearForm
from pipeline.core.threat import Region

AS_IT_IS, ROOT, CHILD = Ascent(0), Ascent(30), Ascent(6)
"""Searches for slopes and multipliers: none, of the whole region, and of a part."""
DOMAINS = 1_000
"""Parts that a sample is divided into at most, unless a run says otherwise."""
ABREAST = 32
"""Parts that are split at once at most."""
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
    split, count = SplitBounds(known, forms, index, rows, together), len(forms.const)
    root = split.whole(torch.arange(count, device=forms.const.device), torch.full_like(forms.const[:, 0], -torch.inf))
    first = split.improved(root, AS_IT_IS, root.lower)
    charge = (first.lower - split.proved(first)).nan_to_num(torch.inf, torch.inf, torch.inf).clamp_min(0)
    enough = needed + BESIDES * charge
    least, done, deepest = torch.inf, count, 0

    def left_open(found: Domains) -> Domains:
        """What is not proved, by the walk that accounts for rounding."""
        nonlocal least
        proof = torch.full_like(found.lower, -torch.inf)
        promising = found.lower > needed
        proof[promising] = split.proved(found[promising])
        closed = torch.isfinite(proof) & (proof > needed)  # a sum that overflows proves nothing
        least = min(least, float(proof[closed].min()) if bool(closed.any()) else torch.inf)
        return found[~closed]

    open_ = left_open(split.improved(first, ROOT, enough))
    while len(open_):
        check()
        order = open_.lower.nan_to_num(-torch.inf).argsort(stable=True)
        taken, rest = open_[order[:ABREAST]], open_[order[ABREAST:]]
        halves, divided, points = halves_of(split, taken, enough)
        tried, fooled = judge(points)
        if fooled.any():
            return Decision("falsified", done, deepest, float(open_.lower.min()), tried[int(fooled.argmax())])
        if len(left_open(split.solved(taken[~divided]))):
            return _undecided("stuck", open_, needed, done, deepest)
        if done + len(halves) > domains:
            return _undecided("domains", open_, needed, done, deepest)
        done += len(halves)
        deepest = max(deepest, int((halves.sign != 0).sum(1).amax()) if len(halves) else 0)
        open_ = Domains.joined([rest, left_open(split.improved(halves, CHILD, enough))])
    return Decision("proved", done, deepest, least - needed)


def _undecided(end: End, open_: Domains, needed: float, done: int, deepest: int) -> Decision:
    lowest = float(open_.lower.nan_to_num(-torch.inf).min())
    return Decision("charge" if lowest > needed else end, done, deepest, lowest - needed)
