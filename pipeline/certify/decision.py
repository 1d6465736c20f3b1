"""What a complete search may take, what it reports to a record of the proof, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from pipeline.bounds.condensed import LARGEST
from pipeline.bounds.footprint import Need
from pipeline.bounds.splits import Domains, SplitBounds
from pipeline.core.network import Step
from pipeline.results import Unfinished

ABREAST = 32
"""Parts that are split at once at most."""
MOST_ROWS = 256
"""Rows that are walked through the network at once at most: more are no faster."""
Judge = Callable[[Tensor], tuple[Tensor, np.ndarray]]
"""Points as the file takes them, and which of these it gives another label."""
End = Literal["proved", "falsified", "domains", "memory", "time", "split", "charge"]


class Record(Protocol):
    """Keeps what a proof consists of, as the search comes upon it."""

    def leaves(self, split: SplitBounds, proved: Domains) -> None:
        """Parts of the region over the boxes of ``split``, each proved by its slopes and multipliers."""

    def ends(self, split: SplitBounds, step: Step, at: Tensor, alpha: Tensor) -> None:
        """Slopes by which the flat entries ``at`` of what a step reads are bounded from below, then, negated, from above."""


@dataclass(frozen=True)
class Room:
    """What one search may take: ``rows`` walked through the network at once, and bytes for the ``matrices`` of the condensed
    network, walks through them included, and for the ``parts`` that are open."""

    rows: int = 2 * ABREAST
    matrices: int = 2 * LARGEST
    parts: int = LARGEST

    @classmethod
    def within(cls, memory: int, need: Need) -> Room:
        """A quarter for walks, half for matrices and a quarter for parts of what a sample's boxes leave of ``memory`` bytes."""
        left = max(0, memory - need.sample)
        return cls(max(4, min(MOST_ROWS, need.rows(need.sample + left // 4, 1))), left // 2, left // 4)


@dataclass(frozen=True)
class Decision:
    """How the search ended, after how many parts, and how deep they went.

    ``proved``: ``margin`` is the least bound of any part. ``falsified``: ``point`` has another label. Undecided are
    ``domains``: there were too many; ``memory``: those that are open take too much; ``time``: the clock ran out; ``split``: all
    signs of some part are assumed and its bound is not enough; ``charge``: in real arithmetic all would be proved, and what
    float32 may lose is more than that leaves. ``margin`` is then the least bound known of an open part.
    """

    end: End
    domains: int
    deepest: int
    margin: float
    point: Tensor | None = None
    charge: float = 0.0
    """What rounding takes from the bound of any part at least, of the form of which it takes most."""
    layer: str | None = None
    """Where that open part's bound loses most, by the file's own name."""
    share: float | None = None
    """Of all that it loses at ReLUs, how much is lost there."""

    def unfinished(self, index: int) -> Unfinished | None:
        """What a report says of a sample, or box, of that index, where there is no answer."""
        if self.end == "proved" or self.end == "falsified":  # each by itself: mypy narrows them
            return None
        bound, charge = (x if math.isfinite(x) else None for x in (self.margin, self.charge))
        return Unfinished(
            index=index,
            why=self.end,
            domains=self.domains,
            depth=self.deepest,
            bound=bound,
            charge=charge,
            layer=self.layer,
            share=self.share,
        )
