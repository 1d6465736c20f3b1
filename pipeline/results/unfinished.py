"""A search by branch and bound that ended without an answer: what stopped it, and where its bounds lose most."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.results.facts import Name
from pipeline.results.rate import Frozen

Why = Literal["domains", "memory", "time", "split", "charge"]


class Unfinished(Frozen):
    """Why a sample, or a box of a property, is left unknown: `index` counts in the data's part, or among the boxes.

    `why`: the number of parts (`domains`), the `memory` or the `time` that was allowed is spent; every sign is assumed in some
    part and its bound is not enough (`split`); or real arithmetic alone proves it, since float32 may lose more than the margin
    (`charge`). `domains` parts were bounded, with `depth` assumed signs at most; `bound` is the least lower bound of a part that
    is open, rounding left out, of which float32 takes `charge` at least. Of what that bound loses in the lines that stand for
    ReLUs, `share` is lost at `layer`.
    """

    index: int = Field(ge=0)
    why: Why
    domains: int = Field(ge=0)
    depth: int = Field(ge=0)
    bound: float | None
    charge: float | None
    layer: Name | None = None
    share: float | None = Field(default=None, ge=0, le=1)
